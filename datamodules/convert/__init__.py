"""Converters: published and everyday forms of raw data -> records of splits, ready to be packed into shards.

A converter is a function `(source, ...) -> DataSet`; a new one is one file here and one line in `commands.py`.
"""

from datamodules.convert.food101 import food101
from datamodules.convert.image_folder import image_folder
from datamodules.convert.n24news import TextField, n24news
from datamodules.convert.pairs import pairs
from datamodules.convert.records import DataSet, Record, pack_all
from datamodules.convert.table import Columns, table
from datamodules.convert.upmc_food101 import upmc_food101

__all__ = [
    "Columns",
    "DataSet",
    "Record",
    "TextField",
    "food101",
    "image_folder",
    "n24news",
    "pack_all",
    "pairs",
    "table",
    "upmc_food101",
]
