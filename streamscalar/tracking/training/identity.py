"""Notices when a model no longer has the parameters that a run records."""

from torch import Tensor, nn

from streamscalar.tracking.training.capture import Selection, named_buffers, named_parameters


class Identity:
    """Compares the parameters of a model with the recorded ones.

    Parameters
    ----------
    model
        The model that is trained.
    selection
        The recorded parameters.

    Attributes
    ----------
    selection : Selection
        Those of the model now, where their layout is the recorded one.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self._model = model
        self.selection = selection
        self._frozen = set(selection.frozen)
        self._layout = self._now()
        self._seen = self._facts()

    def changes(self) -> list[str]:
        """Return what of the model is not recorded any more, in words; empty where rows can go on.

        Parameters of the same names, shapes and types take the place of those that they replace.
        """
        seen = self._facts()
        if seen == self._seen:
            return []
        found = self._now()
        if found == self._layout:
            self._seen = seen
            self.selection = self.selection.rebound(self._model)
            return []
        words = []
        for name in found.keys() | self._layout.keys():
            old, new = self._layout.get(name), found.get(name)
            if old == new:
                continue
            if old is None and new is not None:
                words.append(f"{name} is new" if name not in self._frozen else f"{name} is trained now")
            elif new is None:
                words.append(f"{name} is gone")
            else:
                words.append(f"{name} was {_words(old)} and is {_words(new)}")
        return sorted(words)

    def _facts(self) -> list[tuple[int, object, object, object, bool]]:
        """Return what tells at once whether anything has changed: about a microsecond for each parameter."""
        tensors: list[Tensor] = list(self._model.parameters())
        if self.selection.buffers:
            tensors += self._model.buffers()
        return [(id(p), p.shape, p.dtype, p.device, p.requires_grad) for p in tensors]

    def _now(self) -> dict[str, tuple[tuple[int, ...], str, str]]:
        """Return shape, type and device of each parameter that is trained, or was at the start, and of the buffers."""
        recorded = {layer.name for layer in self.selection.layers}
        found: dict[str, Tensor] = {
            name: p for name, p in named_parameters(self._model).items() if p.requires_grad or name in recorded
        }
        if self.selection.buffers:
            found |= named_buffers(self._model)
        return {name: (tuple(p.shape), str(p.dtype), str(p.device)) for name, p in found.items()}


def _words(facts: tuple[tuple[int, ...], str, str] | None) -> str:
    if facts is None:
        return "absent"
    shape, dtype, device = facts
    return f"{'x'.join(map(str, shape))} {dtype.removeprefix('torch.')} on {device}"
