"""Print the lowest version that mmmask allows of each of its dependencies, as requirements for pip."""

from importlib.metadata import requires

from packaging.requirements import Requirement

for requirement in map(Requirement, requires("mmmask") or []):
    if requirement.marker is None or requirement.marker.evaluate({"extra": "parquet"}):
        (floor,) = (spec.version for spec in requirement.specifier if spec.operator == ">=")
        extras = f"[{','.join(requirement.extras)}]" if requirement.extras else ""
        print(f"{requirement.name}{extras}=={floor}")
