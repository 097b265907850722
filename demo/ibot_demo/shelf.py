"""The loaded models, a few at a time: all that people who use the page share."""

import threading
from collections import OrderedDict

from ibot_hub.loading import load
from ibot_hub.model import Model

MOST = 2  # models in memory; a ViT-L/16 has 1.2 GB


class Shelf:
    """Models by name; the one that was used longest ago makes room.

    Whoever asks for a model that is being loaded waits for it, so none is loaded twice; the others are had meanwhile.
    """

    def __init__(self) -> None:
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()  # of both; never held while a model is loaded, which may be a long download

    def get(self, name: str, *, head: bool = False) -> Model:
        """The model of that name, with its projection head if asked; raises what `ibot_hub.load` raises, and keeps the others."""
        with self._lock:
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            with self._lock:
                model = self._models.get(name)
            if model is None or (head and model.head is None):
                model = load(name, head=head or None)
            with self._lock:
                self._models[name] = model
                self._models.move_to_end(name)
                while len(self._models) > MOST:
                    self._models.popitem(last=False)
            return model
