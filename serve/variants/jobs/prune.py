"""Take features of feed-forward layers, or whole layers, out of a model, and make good for them.

What is left of a feed-forward layer is fitted again by least squares: its output projection is
the one that gives, from the features that stay, most nearly what the whole layer of the exact
model gave (cf. the layer-wise reconstruction of Frantar and Alistarh, arXiv:2208.11580).

Its own module because it is all that changes a model's shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from serve.variants.job import Asked, JobError, run, tell
from serve.variants.jobs.samples import windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

# Of the mean of the Gram matrix's diagonal, added to it: keeps rare features from running wild.
RIDGE = 0.01
BATCH = 8


def prune(asked: Asked) -> Mapping[str, object]:
    """Write the smaller form of `base` into `into`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(asked["threads"])
    tell("loading")
    model = AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(asked["base"])
    layers = _layers(model)
    batches = windows(asked, tokenizer).split(BATCH)
    hidden, context = _entering(model, layers, batches)
    if asked["layers"] is not None:
        dropped = _drop_layers(model, layers, hidden, context, asked["layers"])
    else:
        dropped = []
    if asked["ffn_width"] is not None:
        _narrow(model, _layers(model), hidden, context, asked["ffn_width"])
    tell("writing")
    model.to(torch.bfloat16).save_pretrained(asked["into"])
    tokenizer.save_pretrained(asked["into"])
    return {"dropped_layers": dropped, "parameters": sum(p.numel() for p in model.parameters())}


def _layers(model: nn.Module) -> nn.ModuleList:
    found = getattr(getattr(model, "model", None), "layers", None)
    if found is None or not hasattr(found[0], "mlp") or not hasattr(found[0].mlp, "down_proj"):
        raise JobError("only models like Llama can be pruned: layers with mlp.down_proj")
    layers: nn.ModuleList = found
    return layers


@torch.no_grad()
def _entering(
    model: nn.Module, layers: nn.ModuleList, batches: tuple[Tensor, ...]
) -> tuple[list[Tensor], dict[str, Any]]:
    """Give what the first layer is given: hidden states by batch, and what is the same for all."""
    seen: list[Tensor] = []
    context: dict[str, Any] = {}

    class _EnoughError(Exception):
        pass

    def stop(_: object, given: tuple[Tensor, ...], keywords: dict[str, Any]) -> None:
        seen.append(given[0] if given else keywords.pop("hidden_states"))
        context.update(keywords)
        raise _EnoughError

    hook = layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    for batch in batches:
        try:
            model(batch, use_cache=False)
        except _EnoughError:
            continue
    hook.remove()
    return seen, context


def _pass(layer: nn.Module, hidden: Tensor, context: dict[str, Any]) -> Tensor:
    given = layer(hidden, **context)
    passed: Tensor = given[0] if isinstance(given, tuple) else given
    return passed


# ── depth ───────────────────────────────────────────────────────────────────


@torch.no_grad()
def _drop_layers(
    model: Any, layers: nn.ModuleList, hidden: list[Tensor], context: dict[str, Any], keep: int
) -> list[int]:
    """Drop the layers that change what passes through them the least (arXiv:2403.03853)."""
    if keep >= len(layers):
        raise JobError(f"layers: the model has {len(layers)}; keep fewer")
    passing = hidden
    influence: list[float] = []
    for number, layer in enumerate(layers):
        tell(f"looking at layer {number + 1} of {len(layers)}")
        after = [_pass(layer, each, context) for each in passing]
        alike = [
            torch.nn.functional.cosine_similarity(a, b, dim=-1).mean()
            for a, b in zip(passing, after, strict=True)
        ]
        influence.append(1.0 - float(torch.stack(alike).mean()))
        passing = after
    order = sorted(range(len(layers)), key=influence.__getitem__)
    dropped = sorted(order[: len(layers) - keep])
    kept = [layer for number, layer in enumerate(layers) if number not in dropped]
    model.model.layers = torch.nn.ModuleList(kept)
    for number, layer in enumerate(kept):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = keep
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:keep]
    return dropped


# ── width ───────────────────────────────────────────────────────────────────


@torch.no_grad()
def _narrow(
    model: Any, layers: nn.ModuleList, hidden: list[Tensor], context: dict[str, Any], width: int
) -> None:
    """Narrow layer after layer: each makes good for what those before it have changed."""
    if width >= model.config.intermediate_size:
        raise JobError(f"ffn_width: the model has {model.config.intermediate_size}; keep fewer")
    exact = passing = hidden
    for number, layer in enumerate(layers):
        tell(f"narrowing layer {number + 1} of {len(layers)}")
        wanted = _outputs(layer.mlp.down_proj)
        exact = wanted.collect(layer, exact, context)
        found = _inputs(layer.mlp.down_proj)
        found.collect(layer, passing, context)
        _fit(layer.mlp, found.rows(), wanted.rows(), width)
        passing = [_pass(layer, each, context) for each in passing]
    model.config.intermediate_size = width


class _Rows:
    """Rows that pass a module while a layer runs."""

    def __init__(self, module: nn.Module, *, outputs: bool) -> None:
        self._module = module
        self._outputs = outputs
        self._rows: list[Tensor] = []

    def collect(
        self, layer: nn.Module, hidden: list[Tensor], context: dict[str, Any]
    ) -> list[Tensor]:
        def keep(_: object, given: tuple[Tensor, ...], output: Tensor) -> None:
            chosen = output if self._outputs else given[0]
            self._rows.append(chosen.reshape(-1, chosen.shape[-1]))

        hook = self._module.register_forward_hook(keep)
        passed = [_pass(layer, each, context) for each in hidden]
        hook.remove()
        return passed

    def rows(self) -> Tensor:
        return torch.cat(self._rows)


def _outputs(module: nn.Module) -> _Rows:
    return _Rows(module, outputs=True)


def _inputs(module: nn.Module) -> _Rows:
    return _Rows(module, outputs=False)


def _fit(mlp: Any, features: Tensor, wanted: Tensor, width: int) -> None:
    """Keep the features that carry most of the output, and fit the output to them again."""
    weight = mlp.down_proj.weight
    carried = features.square().mean(0).sqrt() * weight.norm(dim=0)
    kept = carried.topk(width).indices.sort().values
    chosen = features[:, kept]
    gram = (chosen.T @ chosen).double()
    gram += RIDGE * gram.diagonal().mean() * torch.eye(width, dtype=gram.dtype)
    # Pulled towards the weights that are there, not towards nothing.
    before = weight[:, kept]
    missing = wanted - chosen @ before.T
    change = torch.linalg.solve(gram, (chosen.T @ missing).double())
    for name in ("gate_proj", "up_proj"):
        _replace(mlp, name, getattr(mlp, name).weight[kept])
    _replace(mlp, "down_proj", (before + change.T).to(weight.dtype))


def _replace(mlp: Any, name: str, weight: Tensor) -> None:
    rows, columns = weight.shape
    linear = torch.nn.Linear(columns, rows, bias=False, dtype=weight.dtype)
    linear.weight.copy_(weight)
    setattr(mlp, name, linear)


if __name__ == "__main__":
    run(prune)
