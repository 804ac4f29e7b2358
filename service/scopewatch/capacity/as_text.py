"""Shows curves and plans as text for people."""

from dataclasses import fields

from scopewatch.capacity.curve import Curve
from scopewatch.capacity.plan import Figure, Plan
from scopewatch.config import ENV_PREFIX


def whose_figures(curve: Curve) -> str:
    """The reader, the watched set and the machine whose figures a curve holds, in three lines."""
    reads, machine, ran = curve.reads, curve.machine, curve.ran
    saes = f"{reads.saes} SAE{'s' if reads.saes > 1 else ''}"
    name = reads.reader + (f"@{reads.revision[:12]}" if reads.revision else "")
    layers = f"{reads.layers_run} of {reads.layers_total} layers"
    return (
        f"reader   {name} ({reads.reader_digest[:12]}), {layers}, {reads.dtype}, {reads.attention} attention\n"
        f"watched  {reads.watched} features of {saes} ({reads.watched_digest[:12]}), "
        f"watchlists {', '.join(reads.watchlists)}\n"
        f"machine  {machine.name}, {machine.cores} cores, torch_threads {ran.torch_threads}, max_batch_tokens "
        f"{ran.max_batch_tokens}, load {machine.load_before}; measured {curve.made} with scopewatch "
        f"{machine.versions.get('scopewatch', '?')}, torch {machine.versions.get('torch', '?')}"
    )


def describe_curve(curve: Curve) -> str:
    """A curve as the table that `scopewatch bench` prints."""
    lines = [
        whose_figures(curve),
        "",
        f"{'tokens':>8}{'tokens/s':>12}{'pairs/s':>10}{'lone pair, ms':>16}{'Score call, ms':>17}",
    ]
    lines += [
        f"{point.tokens:>8}{point.tokens_per_s:>12.0f}{point.pairs_per_s:>10.2f}{point.lone_ms:>16.1f}{point.call_ms:>17.1f}"
        for point in curve.points
    ]
    service, memory = curve.service, curve.memory
    lines += [
        "",
        f"through gRPC       {service.computed_ratio:.1%} of the engine's rate, at {service.tokens} tokens",
        f"engine busy        {service.engine_busy:.1%} of that time",
        f"from the cache     {service.cached_pairs_per_s:.0f} pairs/s",
        f"start to ready     {service.start_s:.1f} s",
        f"memory             {_mib(memory.rest_mib)} at rest, {_mib(memory.peak_mib)} at most",
    ]
    if curve.machine.kind != "cpu":
        lines.append(
            f"device memory      {_mib(memory.device_rest_mib)} at rest, {_mib(memory.device_peak_mib)} at most"
        )
    return "\n".join(lines)


def describe_plan(plan: Plan, curve: Curve) -> str:
    """A plan: every figure with where it comes from, what was assumed, and what a kustomization takes."""
    lines = [whose_figures(curve), "This holds for no other reader, watched set or dtype.", ""]
    for field in fields(plan):
        figure = getattr(plan, field.name)
        if isinstance(figure, Figure):
            value = "-" if figure.value is None else f"{figure.value:,} {figure.unit}".strip()
            lines.append(f"{field.name:21}{value:>18}   {figure.source}")
    lines += ["", "assumed:", *(f"  {said}" for said in plan.assumptions), ""]
    lines += ["for a kustomization.yaml over deploy/base:", kustomization(plan)]
    return "\n".join(lines)


def kustomization(plan: Plan) -> str:
    """A plan as the YAML that a kustomization.yaml over `deploy/base` takes."""
    settings = ("torch_threads", "max_tokens", "max_batch_tokens", "max_queue_tokens")
    resources = {"requests/cpu": f'"{plan.cpu_cores.value}"'}
    if plan.memory_mib.value is not None:
        resources |= {f"{kind}/memory": f"{plan.memory_mib.value}Mi" for kind in ("requests", "limits")}
    place = "/spec/template/spec/containers/0/resources/"
    lines = [
        *("replicas:", "  - name: scopewatch", f"    count: {plan.replicas.value}"),
        *("configMapGenerator:", "  - name: scopewatch", "    behavior: merge", "    literals:"),
        *(f"      - {ENV_PREFIX}{name.upper()}={getattr(plan, name).value}" for name in settings),
        *("patches:", "  - target: {kind: Deployment, name: scopewatch}", "    patch: |"),
        *(f"      - {{op: replace, path: {place}{path}, value: {value}}}" for path, value in resources.items()),
    ]
    return "\n".join(lines)


def _mib(value: int | None) -> str:
    return "not measured" if value is None else f"{value} MiB"
