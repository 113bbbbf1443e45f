"""Replace modules of a model by instances of subclasses, which keep parameters and hooks."""

from collections.abc import Callable

from torch import nn


def replace_modules(
    model: nn.Module, choose_class: Callable[[nn.Module], type[nn.Module] | None]
) -> None:
    """Replace modules in their parents, in place; the model itself stays.

    A new module shares parameters, buffers, children, hooks and all other attributes with the one
    that it replaces; a module used in several places is replaced by the same new one everywhere.

    Hooks of ``register_load_state_dict_pre_hook`` do not survive: PyTorch keeps a weak reference to
    the old module with them, and raises a RuntimeError when it loads weights. Register such hooks
    after the replacement.

    Args:
        model: contains the modules.
        choose_class: returns the class of the new module for an old one, with the same attributes
            and another forward pass; None: keep the module.
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            new_class = None if child is None else choose_class(child)
            if child is not None and new_class is not None:
                if child not in replaced:
                    replaced[child] = new = new_class.__new__(new_class)
                    vars(new).update(vars(child))
                parent._modules[name] = replaced[child]
