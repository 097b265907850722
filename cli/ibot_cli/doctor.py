"""`ibot doctor`: what this machine has, what is fast on it, and what is missing."""

import importlib.metadata
import importlib.util
import platform
import sys

EXTRAS = {
    "transformers": ("transformers",),
}
PACKAGES = ("torch", "torchvision", "timm", "huggingface-hub", "safetensors", "pillow", "numpy", "pyarrow", "typer")


def doctor() -> None:
    """Show versions, devices, the precisions that are fast here, the cache, and what each extra still needs."""
    import ibot_hub
    from ibot_hub.devices import choose_devices, choose_dtype, measure_products
    from ibot_hub.hub import cache_folder

    _show("ibot-hub", ibot_hub.__version__)
    _show("Python", f"{platform.python_version()} ({sys.executable})")
    for package in PACKAGES:
        _show(package, _version(package))
    for device in dict.fromkeys([*choose_devices("auto"), *choose_devices("cpu")]):
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in measure_products(device).items())
        automatic = str(choose_dtype("auto", device)).removeprefix("torch.")
        _show(str(device), f"GFLOP/s of matrix products: {rates}; --dtype auto is {automatic}")
    folder = cache_folder()
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    _show("cache", f"{folder}: {sum(file.stat().st_size for file in files) / 1e6:,.0f} MB in {len(files)} files")
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        _show(f"extra {extra}", f"missing {', '.join(missing)}: pip install 'ibot-hub[{extra}]'" if missing else "installed")


def _show(name: str, value: str) -> None:
    print(f"{name:<20} {value}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"missing: pip install {package}"
