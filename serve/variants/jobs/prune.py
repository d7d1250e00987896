"""Take features of feed-forward layers, or whole layers, out of a model, and make good for them.

What is left of a feed-forward layer is fitted again by least squares: its output projection is
the one that gives, from the features that stay, most nearly what the whole layer of the exact
model gave (cf. the layer-wise reconstruction of Frantar and Alistarh, arXiv:2208.11580).

Its own module because it is all that changes a model's shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import kl_div

from serve.variants.job import Asked, JobError, run, tell
from serve.variants.jobs.samples import windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

# Of the mean of the Gram matrix's diagonal, added to it: keeps rare features from running wild.
RIDGE = 0.01
BATCH = 8
# Stretches of text by which layers are judged: as many, for two minutes a layer that goes.
JUDGED_BY = 8


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
    """Drop layer after layer, each time that which predictions miss least (arXiv:2402.09025)."""
    if keep >= len(layers):
        raise JobError(f"layers: the model has {len(layers)}; keep fewer")
    begin = torch.cat(hidden)
    begin = begin[:: max(1, len(begin) // JUDGED_BY)][:JUDGED_BY]
    wanted = [_predictions(model, each) for each in _through(layers, begin, context)]
    left = dict(enumerate(layers))
    while len(left) > keep:
        missed: dict[int, float] = {}
        passing = begin
        for place, number in enumerate(left):
            tell(f"trying without layer {number + 1} of {len(layers)}; {len(left) - keep} to drop")
            rest = [*left.values()][place + 1 :]
            missed[number] = _divergence(model, wanted, _through(rest, passing, context))
            passing = _pass(left[number], passing, context)
        del left[min(missed, key=missed.__getitem__)]
    model.model.layers = torch.nn.ModuleList(left.values())
    for number, layer in enumerate(left.values()):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = keep
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in left]
    return [number for number in range(len(layers)) if number not in left]


def _through(layers: Iterable[nn.Module], hidden: Tensor, context: dict[str, Any]) -> Tensor:
    for layer in layers:
        hidden = _pass(layer, hidden, context)
    return hidden


def _predictions(model: Any, hidden: Tensor) -> Tensor:
    """Give log probabilities of every next token; of one stretch at a time, for memory's sake."""
    return torch.log_softmax(model.lm_head(model.model.norm(hidden)), dim=-1)


def _divergence(model: Any, wanted: list[Tensor], hidden: Tensor) -> float:
    """Give the mean divergence (Kullback-Leibler, nats) from what the whole model predicts."""
    return sum(
        float(kl_div(_predictions(model, each), exact, reduction="batchmean", log_target=True))
        for each, exact in zip(hidden, wanted, strict=True)
    ) / len(wanted)


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
