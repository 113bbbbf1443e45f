"""Replace a module's forward pass by a faster one while no hooks are registered."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import module as nn_module


class FastForward:
    """Replaces ``module.forward``; runs the module's own forward while submodules have hooks.

    Args:
        plain: the module's own forward.
        fast: computes the same without calling the modules in ``watched``.
        watched: modules whose hooks must be called.
    """

    def __init__(
        self, plain: Callable[..., Any], fast: Callable[..., Any], watched: Sequence[nn.Module]
    ):
        self.fast, self.watched, self._plain = fast, watched, plain

    @classmethod
    def replace(
        cls, module: nn.Module, fast: Callable[..., Any], watched: Sequence[nn.Module] = ()
    ) -> None:
        """Replace the forward pass of a module, in place; for the arguments see the class.

        Nothing changes if a user has already replaced it, or that of a watched module.
        """
        own = [vars(m).get("forward") for m in (module, *watched)]
        if all(forward is None or isinstance(forward, cls) for forward in own):
            module.forward = cls(module.forward, fast, watched)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one of the two forward passes."""
        is_hooked = nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks
        if is_hooked or any(m._forward_hooks or m._forward_pre_hooks for m in self.watched):
            return self._plain(*args, **kwargs)
        return self.fast(*args, **kwargs)
