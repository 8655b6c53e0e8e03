"""What a joint training step holds in a device's memory, tensor by tensor, as graph, ops and parallel hold it: a step is gone
through with tensors that have a size and no numbers. See docs/memory.md; scripts/dev/memory_plan.py makes its tables."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mtp_tools.bench.costs import BF16, BLOCK, FP32, GROUP, Model, Pair

INT64, FP64 = 8, 8
ALIGNMENT = 256  # bytes


def block_size(size: int) -> int:
    """Bytes that the arena gives for `size`, as arena.cpp has it."""
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Run:
    """A run, as one of its ranks sees it."""

    pair: Pair
    ranks: int = 1
    micro_batches: int = 1  # of each rank in a step
    length: int = 2048  # positions of a micro-batch, all with a label but those whose round has none
    dtype: int = BF16  # bytes of an element that is computed with
    recompute: bool = False
    moments: int = FP32
    moments_on_host: bool = False
    freeze_base: bool = False
    freeze_embeddings: bool = False
    is_gpu: bool = True


class Memory:
    """The arena's accounts: bytes in use by what they are for, now and when they were most."""

    def __init__(self) -> None:
        self.in_use = self.peak = 0
        self.by_use: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}

    def add(self, use: str, size: int) -> None:
        self.by_use[use] += size
        self.in_use += size
        if self.in_use > self.peak:
            self.peak, self.at_peak = self.in_use, dict(self.by_use)


class Block:
    """Memory that is in use as long as a tensor refers to it."""

    def __init__(self, memory: Memory, size: int, use: str) -> None:
        self.memory, self.bytes, self.use = memory, block_size(size), use
        memory.add(use, self.bytes)

    def __del__(self) -> None:
        self.memory.add(self.use, -self.bytes)


class Tensor:
    def __init__(self, memory: Memory, elements: int, size: int, use: str) -> None:
        self.block, self.elements = Block(memory, elements * size, use), elements

    def first(self, elements: int) -> Tensor:
        """A view of the first elements."""
        view = Tensor.__new__(Tensor)
        view.block, view.elements = self.block, elements
        return view


class Gradient:
    """GradientSum of graph.h."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None

    def add(self, memory: Memory, tensor: Tensor, size: int) -> None:
        if self.sum is None:
            self.sum = tensor
        elif sys.getrefcount(self.sum) > 2:  # another value has it too
            self.sum = Tensor(memory, self.sum.elements, size, "gradients of activations")

    def take(self) -> Tensor | None:
        taken, self.sum = self.sum, None
        return taken


@dataclass
class Value:
    data: Tensor
    gradient: Gradient | None


class Unit:
    """ShardedUnit of parallel."""

    def __init__(self, step: Step, elements: list[int], trained: bool, row: int = 0, looked_up_only: bool = False):
        end = 0
        for member in elements:
            end = -(-end // 16) * 16 + member
        block = -(-BLOCK // row) * row if row else BLOCK
        self.step, self.trained, self.row = step, trained, row
        self.shard = -(-(-(-end // block)) // step.run.ranks) * block
        self.users, self.values, self.gradient, self.rows = 0, None, None, None
        memory, run = step.memory, step.run
        self.kept = [Tensor(memory, self.shard, FP32, "weights, fp32")]
        if run.dtype == BF16 and not looked_up_only:
            self.kept.append(Tensor(memory, self.shard, BF16, "weights, bf16"))
        if trained and not (run.moments_on_host and run.is_gpu):
            self.kept += [Tensor(memory, self.shard, run.moments, "moments") for _ in range(2)]
        if trained:
            sums = 2 if run.ranks * run.micro_batches > GROUP else 1
            self.kept += [Tensor(memory, self.shard, FP32, "sums of gradients") for _ in range(sums)]

    def whole(self, size: int, use: str) -> Tensor:
        return Tensor(self.step.memory, self.shard * self.step.run.ranks, size, use)

    def acquire(self) -> None:
        self.users += 1
        if self.users == 1 and self.step.run.ranks > 1:
            self.values = self.whole(self.step.run.dtype, "gathered weights")

    def release(self) -> None:
        self.users -= 1
        if self.users == 0:
            self.values = None

    def add_gradient(self) -> None:
        if self.trained and self.gradient is None:
            self.gradient = self.whole(FP32, "gradients of units")

    def reduce(self) -> None:
        if not self.trained:
            return
        memory, ranks = self.step.memory, self.step.run.ranks
        if self.rows is not None:
            rows, count, width = self.rows, self.step.run.length, self.row
            sent = Tensor(memory, count * width, FP32, "rows of tables")
            self.rows = rows = None
            received = sent if ranks == 1 else Tensor(memory, count * width, FP32, "rows of tables")
            if self.gradient is None:  # a rank gives each other one a part of its rows
                sent = None
                compact = Tensor(memory, -(-count // ranks) * width, FP32, "rows of tables")
                del compact
                return
        mine, self.gradient = self.gradient, None
        if mine is None:
            mine = self.whole(FP32, "gradients of units")
        if ranks > 1:
            slices = self.whole(FP32, "gradients of units")
            del slices


class Graph:
    """Graph of graph.h. T: rows."""

    def __init__(self, step: Step, recording: bool = True) -> None:
        self.step, self.memory, self.recording = step, step.memory, recording
        self.tape: list[Callable[[], None]] = []

    def empty(self, elements: int, size: int = 0, use: str = "activations") -> Tensor:
        return Tensor(self.memory, elements, size or self.step.run.dtype, use)

    def output(self, data: Tensor, needs: bool) -> Value:
        return Value(data, Gradient() if needs else None)

    def send(self, to: Gradient | None, tensor: Tensor) -> None:
        if to is not None:
            to.add(self.memory, tensor, self.step.run.dtype)

    def on_backward(self, y: Value, work: Callable[[Tensor], None]) -> None:
        if not self.recording or y.gradient is None:
            return

        def go(gradient: Gradient = y.gradient) -> None:
            if gradient.sum is not None:
                work(gradient.take())

        self.tape.append(go)

    def backward(self) -> None:
        while self.tape:
            work = self.tape.pop()
            work()
            del work

    def gradient_like(self, tensor: Tensor) -> Tensor:
        return self.empty(tensor.elements, use="gradients of activations")

    def product(self, rows: int, columns: int, inner: int, left_is_fp32: bool = False) -> list[Tensor]:
        """What a product holds beside its operands: on processors, bf16 ones in fp32, part by part."""
        if self.step.run.is_gpu:
            return [self.empty(self.step.workspace, 1, "within operations")]
        if self.step.run.dtype == FP32:
            return []
        largest = [max(1, (1 << 21) // inner // tile) * tile for tile in (128, 256)]
        parts = [min(n, most) * inner for n, most in zip((rows, columns), largest, strict=True)]
        return [self.empty(part, FP32, "within operations") for part in parts[left_is_fp32:]]

    def linear(self, x: Value, w: Unit, inner: int, columns: int) -> Value:
        rows = x.data.elements // inner
        y = self.output(self.empty(rows * columns), x.gradient is not None or w.trained)
        within = self.product(rows, columns, inner)
        del within

        def back(dy: Tensor, x_data: Tensor | None = x.data if w.trained else None, to: Gradient | None = x.gradient) -> None:
            if w.trained:
                w.add_gradient()
                within = self.product(columns, inner, rows)
                del within
            if to is not None:
                dx = self.empty(rows * inner, use="gradients of activations")
                within = self.product(rows, inner, columns)
                del within
                self.send(to, dx)

        self.on_backward(y, back)
        return y

    def norm(self, x: Value, width: int, w: Unit | None, residual: Value | None = None) -> Value:
        trained = w is not None and w.trained
        with_norm = x.gradient is not None or trained
        to_residual = residual.gradient if residual is not None else None
        y = self.output(self.empty(x.data.elements), with_norm or to_residual is not None)
        rrms = self.empty(x.data.elements // width, FP32)

        def back(dy: Tensor, x: Value = x, rrms: Tensor = rrms) -> None:
            self.send(to_residual, dy)
            if not with_norm:
                return
            dx = self.gradient_like(x.data)
            if trained:
                w.add_gradient()
                parts = self.empty(-(-x.data.elements // width // 64) * width, FP32, "within operations")
                del parts
            self.send(x.gradient, dx)

        self.on_backward(y, back)
        return y

    def unary(self, x: Value) -> Value:
        """What needs only dy in its backward: rope, scale, shift."""
        y = self.output(self.empty(x.data.elements), x.gradient is not None)

        def back(dy: Tensor, to: Gradient | None = x.gradient) -> None:
            self.send(to, self.gradient_like(dy))

        self.on_backward(y, back)
        return y

    def view(self, x: Value) -> Value:
        y = self.output(x.data, x.gradient is not None)
        self.on_backward(y, lambda dy, to=x.gradient: self.send(to, dy))
        return y

    def add_scaled(self, a: Value, b: Value) -> Value:
        y = self.output(self.empty(a.data.elements), a.gradient is not None or b.gradient is not None)

        def back(dy: Tensor, to_a: Gradient | None = a.gradient, to_b: Gradient | None = b.gradient) -> None:
            scaled = self.gradient_like(dy)
            self.send(to_a, scaled)
            self.send(to_b, scaled)

        self.on_backward(y, back)
        return y

    def columns(self, x: Value, count: int) -> Value:
        y = self.output(self.empty(count), x.gradient is not None)

        def back(dy: Tensor, to: Gradient | None = x.gradient, elements: int = x.data.elements) -> None:
            if to.sum is None:
                to.sum = self.empty(elements, use="gradients of activations")

        self.on_backward(y, back)
        return y

    def concat(self, a: Value, b: Value) -> Value:
        sizes = a.data.elements, b.data.elements
        y = self.output(self.empty(sum(sizes)), a.gradient is not None or b.gradient is not None)

        def back(dy: Tensor, to: tuple = (a.gradient, b.gradient)) -> None:
            parts = [self.empty(n, use="gradients of activations") if g else None for g, n in zip(to, sizes, strict=True)]
            for gradient in to:
                part = parts.pop(0)
                if part is not None:
                    self.send(gradient, part)

        self.on_backward(y, back)
        return y

    def gated(self, gate: Value, up: Value) -> Value:
        y = self.output(self.empty(gate.data.elements), gate.gradient is not None or up.gradient is not None)

        def back(dy: Tensor, gate: Value = gate, up: Value = up) -> None:
            parts = [self.gradient_like(value.data) if value.gradient else None for value in (gate, up)]
            for value in (gate, up):
                part = parts.pop(0)
                if part is not None:
                    self.send(value.gradient, part)

        self.on_backward(y, back)
        return y

    def attention(self, q: Value, k: Value, v: Value, heads_times_rows: int) -> Value:
        y = self.output(self.empty(q.data.elements), q.gradient is not None or k.gradient is not None)
        lse = self.empty(heads_times_rows, FP32)
        converts = not self.step.run.is_gpu and self.step.run.dtype == BF16

        def in_fp32(*elements: int) -> list[Tensor]:
            return [self.empty(n, FP32, "within operations") for n in elements] if converts else []

        within = in_fp32(*(2 * [q.data.elements]), k.data.elements, k.data.elements)
        del within

        def back(dy: Tensor, q: Value = q, k: Value = k, v: Value = v, out: Tensor = y.data, lse: Tensor = lse) -> None:
            queries, keys = q.data.elements, k.data.elements
            dq = self.gradient_like(q.data)
            dk = dv = None
            if k.gradient is not None:
                dk, dv = self.gradient_like(k.data), self.gradient_like(v.data)
            within = in_fp32(queries, queries, queries, queries, keys, keys, *([keys, keys] if dk else []))
            if self.step.run.is_gpu:
                within += [self.empty(heads_times_rows, FP32, "within operations")]
            elif dk is not None:
                within += [self.empty(queries, FP32, "within operations") for _ in range(2)]
            del within
            for value, gradient in ((q, dq), (k, dk), (v, dv)):
                if value.gradient is not None:
                    self.send(value.gradient, gradient)

        self.on_backward(y, back)
        return y

    def lookup(self, table: Unit, count: int) -> Value:
        rows = self.empty((count + 1) * table.row, use="rows of tables")
        if self.step.run.ranks > 1:
            asked = [self.empty((count + 1) * table.row, use="rows of tables") for _ in range(2)]
            del asked
        y = self.output(rows.first(count * table.row), table.trained)

        def back(dy: Tensor) -> None:
            table.rows = dy

        self.on_backward(y, back)
        return y

    def loss(self, x: Value, w: Unit, width: int, vocabulary: int, rows: int) -> None:
        dx = self.gradient_like(x.data) if x.gradient is not None else None
        w.add_gradient()
        most, logits = (1024, 1 << 28) if self.step.run.is_gpu else (256, 1 << 26)
        n = min(rows, max(1, min(most, logits // vocabulary)))
        size = self.step.run.dtype if self.step.run.is_gpu else FP32
        within = [self.empty(n * width, size, "logits of a loss"), self.empty(n * vocabulary, FP32, "logits of a loss")]
        if self.step.run.is_gpu and size == BF16:
            within.append(self.empty(n * vocabulary, size, "logits of a loss"))
        product = self.product(n, vocabulary, width, left_is_fp32=True)
        del product
        if dx is not None:
            within.append(self.empty(n * width, size, "logits of a loss"))
            product = self.product(n, width, vocabulary, left_is_fp32=True)
            del product
            self.tape.append(lambda to=x.gradient, dx=dx: self.send(to, dx))

    def segment(self, inputs: list[Value], run: Callable[[Graph, list[Value]], list[Value]]) -> list[Value]:
        recompute = self.step.run.recompute

        def detached() -> list[Value]:
            return [Value(value.data, Gradient() if value.gradient else None) for value in inputs]

        first = Graph(self.step, self.recording and not recompute)
        first_inputs = detached()
        first_outputs = run(first, first_inputs)
        outputs = [self.output(value.data, value.gradient is not None) for value in first_outputs]
        if not self.recording or all(value.gradient is None for value in outputs):
            return outputs
        kept = None if recompute else (first, first_inputs, first_outputs)
        sums = [value.gradient for value in outputs]

        def back(kept: tuple | None = kept) -> None:
            if kept is None:
                graph, ins = Graph(self.step), detached()
                outs = run(graph, ins)
            else:
                graph, ins, outs = kept
            for gradient, out in zip(sums, outs, strict=True):
                if gradient is not None and gradient.sum is not None:
                    self.send(out.gradient, gradient.take())
            outs.clear()
            graph.backward()
            for value, inner in zip(inputs, ins, strict=True):
                if value.gradient is not None and inner.gradient.sum is not None:
                    self.send(value.gradient, inner.gradient.take())

        self.tape.append(back)
        return outputs

    def open(self, unit: Unit, forward_only: bool = False, rows_only: bool = False) -> Callable[[], None]:
        """A scope; what is returned closes it."""
        if not rows_only:
            unit.acquire()

        def back() -> None:
            unit.reduce()
            if not forward_only and not rows_only:
                unit.release()

        begin = len(self.tape)
        self.tape.append(back)

        def close() -> None:
            if rows_only:
                return
            unit.release()
            if len(self.tape) == begin + 1 and not unit.trained:
                self.tape.pop()
            elif not forward_only:
                self.tape.append(unit.acquire)

        return close


class Step:
    """A step's last micro-batch, when all that is kept from step to step is there."""

    workspace = 32 << 20  # bytes of a product on a GPU

    def __init__(self, run: Run) -> None:
        self.run, self.memory = run, Memory()
        base, drafter = run.pair.base, run.pair.drafter
        trained, tables = not run.freeze_base, not (run.freeze_base or run.freeze_embeddings)
        self.table = Unit(self, [base.vocabulary * base.hidden], tables, row=base.hidden)
        head = [base.hidden]
        if base.packed:
            rows = [base.vocabulary * base.packed]
            self.per_layer_table = Unit(self, rows, tables, row=base.packed, looked_up_only=True)
            head = [base.packed * base.hidden, base.per_layer, base.hidden]
        self.head = Unit(self, head, trained)
        self.layers = [Unit(self, layer_members(base, i), trained) for i in range(len(list(base.layers())))]
        matrices = [drafter.hidden * 2 * base.hidden, drafter.hidden, base.hidden * drafter.hidden]
        self.drafter_head = Unit(self, matrices, True)
        self.drafter_layers = [Unit(self, layer_members(drafter, i), True) for i in range(len(list(drafter.layers())))]
        self.drafter_table = Unit(self, [drafter.vocabulary * drafter.hidden], True, row=drafter.hidden)
        self.prefetched: Tensor | None = None
        if run.is_gpu and run.ranks > 1:  # the next unit is gathered while one is in use
            largest = max(unit.shard for unit in self.layers)
            self.prefetched = Tensor(self.memory, largest * run.ranks, run.dtype, "gathered weights")

    def layer(self, g: Graph, model: Model, i: int, unit: Unit, x: Value, shared: tuple | None, per_layer: Value | None,
              stores: bool) -> list[Value]:  # fmt: skip
        _, queries, keys, projections = list(model.layers())[i]
        rows, hidden, head_dim = self.run.length, model.hidden, queries // model.heads
        inputs = [x, *(shared or ()), *([per_layer] if per_layer else [])]

        def run(g: Graph, values: list[Value]) -> list[Value]:
            x = values[0]
            normed = g.norm(x, hidden, unit)
            if projections == 0:
                k, v = values[1], values[2]
            else:
                k = g.view(g.linear(normed, unit, hidden, keys))
                v = g.view(g.linear(normed, unit, hidden, keys)) if projections == 2 else k
                k, v = g.unary(g.norm(k, head_dim, unit)), g.norm(v, head_dim, None)
            q = g.unary(g.norm(g.view(g.linear(normed, unit, hidden, queries)), head_dim, unit))
            mixed = g.view(g.attention(q, k, v, rows * model.heads))
            del q
            out = g.linear(mixed, unit, queries, hidden)
            del mixed, normed
            x = g.norm(out, hidden, unit, residual=x)
            del out
            normed = g.norm(x, hidden, unit)
            gated = g.gated(g.linear(normed, unit, hidden, model.inner), g.linear(normed, unit, hidden, model.inner))
            del normed
            x = g.norm(g.linear(gated, unit, model.inner, hidden), hidden, unit, residual=x)
            del gated
            if model.per_layer:
                gated = g.gated(g.linear(x, unit, hidden, model.per_layer), values[-1])
                x = g.norm(g.linear(gated, unit, model.per_layer, hidden), hidden, unit, residual=x)
                del gated
            x = g.unary(x)
            return [x, k, v] if stores else [x]

        return g.segment(inputs, run)

    def base(self, g: Graph) -> tuple[Value, Value, dict[bool, tuple]]:
        model, rows = self.run.pair.base, self.run.length
        embeddings = g.lookup(self.table, rows)
        close_head = g.open(self.head)
        packed = None
        if model.packed:
            context = g.unary(g.linear(embeddings, self.head, model.hidden, model.packed))
            context = g.view(g.norm(g.view(context), model.per_layer, self.head))
            g.open(self.per_layer_table, rows_only=True)
            packed = g.add_scaled(context, g.lookup(self.per_layer_table, rows))
            del context
        x, stored = embeddings, {}
        kinds = [(slides, projections) for slides, _, _, projections in model.layers()]
        for i, (slides, projections) in enumerate(kinds):
            stores = projections > 0 and (slides, True) not in [(s, p > 0) for s, p in kinds[i + 1 :]]
            per_layer = g.columns(packed, rows * model.per_layer) if packed else None
            close = g.open(self.layers[i])
            shared = None if projections else stored[slides]
            x, *store = self.layer(g, model, i, self.layers[i], x, shared, per_layer, stores)
            if stores:
                stored[slides] = tuple(store)
            close()
        hidden = g.norm(x, model.hidden, self.head)
        close_head()
        return embeddings, hidden, stored

    def rounds(self, g: Graph, embeddings: Value, hidden: Value, stored: dict[bool, tuple]) -> None:
        base, model, rows = self.run.pair.base, self.run.pair.drafter, self.run.length
        units = [self.drafter_head, *self.drafter_layers]
        closing = [g.open(unit) for unit in units] + [g.open(self.drafter_table, forward_only=True)]
        state = hidden
        for k in range(self.run.pair.rounds):
            tokens = g.unary(embeddings)
            x = g.linear(g.concat(tokens, state), self.drafter_head, 2 * base.hidden, model.hidden)
            for i, (slides, *_) in enumerate(model.layers()):
                (x,) = self.layer(g, model, i, self.drafter_layers[i], x, stored[slides], None, False)
            x = g.norm(x, model.hidden, self.drafter_head)
            g.loss(x, self.drafter_table, model.hidden, model.vocabulary, rows - k - 1)
            if k + 1 < self.run.pair.rounds:
                state = g.linear(x, self.drafter_head, model.hidden, base.hidden)
        for close in closing:
            close()

    def go(self) -> Memory:
        base, g = self.run.pair.base, Graph(self)
        close = g.open(self.table, forward_only=True)
        embeddings, hidden, stored = self.base(g)
        g.loss(hidden, self.table, base.hidden, base.vocabulary, self.run.length)
        self.rounds(g, embeddings, hidden, stored)
        del embeddings, hidden, stored
        close()
        g.backward()
        return self.memory


def layer_members(model: Model, i: int) -> list[int]:
    """Elements of each tensor of a layer."""
    _, queries, keys, projections = list(model.layers())[i]
    head_dim, hidden = queries // model.heads, model.hidden
    members = [hidden, queries * hidden, head_dim]
    if projections:
        members += [keys * hidden, head_dim] + ([keys * hidden] if projections == 2 else [])
    members += [hidden * queries, hidden, hidden] + 3 * [model.inner * hidden] + [hidden]
    return members + (2 * [model.per_layer * hidden] + [hidden] if model.per_layer else [])
