"""Data for mmmask: WebDataset shards with indexes, readers, converters, and the built-in ShapesWorld."""

from datamodules.drawing_reader import Drawing
from datamodules.image_reader import Image
from datamodules.json_reader import Json
from datamodules.readers import Array, Label, Text
from datamodules.shapes_world_data import ShapesWorldData
from datamodules.shard_data import ShardData
from datamodules.shards import ShardSet

__all__ = ["Array", "Drawing", "Image", "Json", "Label", "ShapesWorldData", "ShardData", "ShardSet", "Text"]
