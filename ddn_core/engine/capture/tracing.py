"""The graph of a model without data, from a forward pass on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine.capture.batch import find_sample_axis
from ddn_core.engine.capture.destinations import Destinations, WantedParameter, destinations_of
from ddn_core.engine.capture.graph import ModelGraph, Reach
from ddn_core.engine.capture.layout import traced_layouts
from ddn_core.engine.capture.plan import plan_of
from ddn_core.engine.losses import recognize
from ddn_core.engine.sample_axis import SampleAxis


@dataclass(frozen=True, eq=False)
class TracedGraph:
    """The graph of a loss on the meta device.

    Attributes:
        graph: The graph between the model output and the wanted parameters.
        samples: Axis of the samples at the model output.
        destinations: What becomes of the columns at the sites.
        dtype: Dtype in which curvature is computed.
    """

    graph: ModelGraph
    samples: SampleAxis
    destinations: Destinations
    dtype: torch.dtype


def traced_graph(
    evaluate: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor, wanted: Mapping[int, WantedParameter]
) -> TracedGraph:
    """Trace a model with its loss on the meta device.

    Args:
        evaluate: Returns the loss of a batch of inputs and targets on the meta device.
        inputs: Inputs; only their shape and dtype are used.
        targets: Targets; only their shape and dtype are used.
        wanted: The wanted parameters, on the meta device, by `id`.

    Raises:
        CurvatureError: The loss is not supported.
    """
    graphs = []
    terms: list[Any] = []
    for repeated in (1, 2):
        batch = [torch.cat([given.to("meta")] * repeated) for given in (inputs, targets)]
        with torch.enable_grad():
            loss = evaluate(*batch)
        assert loss.grad_fn is not None
        reach = Reach(wanted)
        reach.visit(loss.grad_fn)
        found = recognize(loss, reach.leads)
        graphs.append(ModelGraph.of(found.output, reach))
        terms.append((loss, found.term))
    graph, doubled = graphs
    samples = find_sample_axis(graph.output, None)
    plan = plan_of(graph, traced_layouts(graph, doubled, samples))
    dtype = terms[0][1].dtype
    for entry in wanted.values():
        dtype = torch.promote_types(dtype, entry.parameter.dtype)
    return TracedGraph(graph, samples, destinations_of(graph, plan.sites_of(graph), wanted), dtype)
