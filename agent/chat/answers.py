"""Short answers to questions about a session, computed from its records."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.config.settings import Settings
from agent.loop.approval import ApprovalRequest
from agent.loop.expectations import Expectation
from agent.loop.validation import slice_attributes
from agent.session.limits import best_round
from agent.steering.preferences import Preference, slice_name
from agent.steering.steer import share
from eval.report.blocks import (
    Block,
    Cell,
    Line,
    Table,
    levers_text,
    plan_lines,
    plan_table,
    value_shares,
    verdict_text,
)
from eval.report.text import (
    duration,
    estimate_text,
    number,
    overlap,
    percent,
    plural,
    signed,
    words,
)
from memory.records import Estimate, Plan, Report, Round
from prompts.printable import one_line
from prompts.render import quote
from prompts.vocabulary import Vocabulary
from tools.settings import DstmSettings

# Slices of a plan drawn as bars, and the length of a full bar in characters.
_N_BARS, _BAR = 5, 20
# Rows of the table of prompts; combined slices listed for a value without a score of its own.
_N_PROMPTS, _N_WITHIN = 12, 2
_LEARNT_FROM = {
    "real+synthetic": "photographs and generated images",
    "synthetic": "generated images alone",
    "real": "photographs alone",
}


def measured(past: Sequence[Round]) -> list[tuple[Round, Report, Estimate]]:
    """Return the evaluated rounds, each with its report and its main figure."""
    return [(r, r.report, r.main_figure) for r in past if r.report and r.main_figure]


def trend_lines(past: Sequence[Round]) -> list[Block]:
    """Return the main figure by round, the best round, and the change in the last round."""
    known = measured(past)
    best = best_round(past)
    if not known or best is None:
        return [Line("Nothing is measured yet.")]
    metric = words(known[0][1].main_metric)
    figures = ", ".join(f"round {r.label} {number(value.value)}" for r, _, value in known)
    blocks: list[Block] = [Line(f"{metric} on feedback: {figures}. Best: round {best.round}.")]
    last, _, new = known[-1]
    text = f"Round {last.label}: {estimate_text(new)}"
    if len(known) > 1:
        before, _, old = known[-2]
        text += f", {signed(new.value - old.value)} since round {before.label}"
    blocks.append(Line(f"{text}."))
    return blocks


def is_worth(past: Sequence[Round]) -> bool | None:
    """Return whether another round is likely to help, judged by the last one.

    Returns:
        True if the last round is the best and its interval does not overlap that of the round
        before, False if an earlier round is the best, None if neither can be said.
    """
    known, best = measured(past), best_round(past)
    if len(known) < 2 or best is None:
        return None
    if best.round < known[-1][0].number:
        return False
    return None if overlap(known[-1][2], known[-2][2]) else True


def worth_lines(past: Sequence[Round], settings: Settings, n_done: int) -> list[Block]:
    """Return the trend, whether another round is likely to help, and what a round costs."""
    known, best = measured(past), best_round(past)
    blocks = trend_lines(past)
    n_since = 0 if best is None else sum(r.number > best.round for r, _, _ in known)
    if len(known) < 2 or best is None:
        text = "Too little is measured to say whether another round helps: it takes two rounds."
    elif n_since:
        text = f"No round since round {best.round} is better ({plural(n_since, 'round')}): the "
        text += "figures give no reason for another one."
    elif is_worth(past):
        text = "The last round is the best, beyond chance: another one is likely to help."
    else:
        text = "The last round is the best, but within chance: another one may help or not."
    blocks.append(Line(text, "bold"))
    n_left = max(0, settings.session.rounds - n_done)
    text = f"Left: {plural(n_left, 'round')} of {settings.session.rounds}; one makes "
    text += plural(settings.session.images_per_round, "image")
    if known and (seconds := sum(known[-1][0].seconds.values())):
        text += f", and the last took {duration(seconds)}"
    return [*blocks, Line(f"{text}. /continue 1 adds one, /stop ends it.")]


def plan_summary(
    plan: Plan,
    before: Plan | None,
    request: ApprovalRequest | None,
    preferences: Sequence[Preference],
    vocabulary: Vocabulary,
) -> list[Block]:
    """Return a plan in at most 12 lines.

    Args:
        plan: The plan.
        before: The previous plan, for changes of shares; None: there is none.
        request: The open approval request of the plan; None: the plan is accepted.
        preferences: Active preferences.
        vocabulary: Vocabulary of the target.
    """
    now, old = value_shares(plan), value_shares(before) if before else {}
    slices = [plan.hypothesis.slice] if plan.hypothesis else []
    slices += [p.name for p in preferences if p.attributes]
    slices += sorted(now, key=lambda key: (-abs(now[key] - old.get(key, 0.0)), key))
    names = list(dict.fromkeys(name for name in slices if slice_attributes(name)))[:_N_BARS]
    size = f"{plural(plan.n_images, 'image')} planned from {plural(len(plan.prompts), 'prompt')}"
    texts = {p.id: p.say() for p in preferences}
    shifts = request.resolved.shifts if request and request.resolved else ()
    moved = [
        f"{s.preference} {texts[s.preference]} {percent(s.before)} -> {percent(s.after)}"
        for s in shifts
        if s.preference in texts
    ]
    author = plan.author + ", before preferences" * bool(moved)
    blocks: list[Block] = [
        Line(f"Plan of round {plan.round}: {size}", "bold"),
        Line(f"By {author}: {one_line(plan.why, 240) or 'no reason given'}"),
    ]
    parts: dict[str, float] = {}
    for name in names:
        attributes = {key: tuple(v.split("|")) for key, v in (slice_attributes(name) or {}).items()}
        about = Preference(attributes=attributes, min_share=1)
        part = parts[name] = share(about, plan.prompts, vocabulary)
        bar = "█" * round(_BAR * part)
        text = f"{bar.ljust(_BAR, '░')} {percent(part):>4} {name}"
        if before:
            change = part - share(about, before.prompts, vocabulary)
            text += f", {percent(change, True)} since round {before.round}"
        blocks.append(Line(text))
    blocks += [Line(f"Preferences: {'; '.join(moved)}")] if moved else []
    if request and request.expectation:
        blocks.append(Line(expected(request.expectation), "dim"))
    if plan.hypothesis and parts.get(plan.hypothesis.slice, 1):  # preferences may remove its images
        effect = signed(plan.hypothesis.expected_change)
        blocks.append(Line(f"It expects {effect} on {one_line(plan.hypothesis.slice)}."))
    blocks += [Line(one_line(levers_text(plan.levers), 240))] if plan.levers else []
    if plan.warnings:
        more = f" (and {len(plan.warnings) - 1} more)" if len(plan.warnings) > 1 else ""
        blocks.append(Line(f"Warning: {one_line(plan.warnings[0], 240)}{more}", "warning"))
    if request:
        text = "Make this? /approve, /plan all (every prompt), /edit N count 12, /reject WHY"
        return [*blocks, Line(text, "bold")]
    return [*blocks, Line("/plan all shows every prompt.", "dim")]


def plan_blocks(question: ApprovalRequest, preferences: Sequence[Preference]) -> list[Block]:
    """Return the pending plan, its shifts by preferences, and the commands to decide on it."""
    plan, expectation = question.plan, question.expectation
    assert plan is not None and expectation is not None  # set for plans
    kept_rates = {p.prompt_id: p.kept_rate for p in expectation.prompts}
    seconds = None if expectation.seconds is None else expectation.seconds / plan.n_images
    texts = {p.id: p.say() for p in preferences}
    shifts = [
        f"Preference {id_} {texts[id_]}: {percent(shift.before)} -> {percent(shift.after)}"
        for shift in (question.resolved.shifts if question.resolved else ())
        if (id_ := shift.preference) in texts
    ]
    commands = '/approve, /edit N count 12, /edit N remove, /add "prompt" x8, /reject WHY'
    return [
        plan_table(plan, kept_rates, seconds, question.nearest),
        Line(expected(expectation), "dim"),
        *plan_lines(plan),
        *map(Line, shifts),
        *(Line(f"Warning: {one_line(text)}", "warning") for text in plan.warnings),
        Line(f"Make this? {commands}", "bold"),
    ]


def expected(expectation: Expectation) -> str:
    """Return a sentence with the kept images, drawing time and score changes expected of a plan."""
    n_kept = expectation.kept_rate * expectation.n_images
    text = f"Expected: about {n_kept:.0f} of {expectation.n_images} images kept"
    if expectation.seconds is not None:
        text += f", {expectation.seconds:.0f} s to draw"
    slices = expectation.slices[:3]
    changes = [f"{s.slice} {signed(s.change)}" for s in slices if abs(s.change) > 5e-4]
    return f"{text}; changes {', '.join(changes)}." if changes else f"{text}."


def iou_by_class(report: Report) -> dict[str, Estimate]:
    """Return the IoU of each pixel class in a report."""
    names = {name: re.fullmatch(r"iou[ _](.+)", name) for name in report.metrics}
    return {match[1]: report.metrics[name] for name, match in names.items() if match}


def class_lines(past: Sequence[Round], vocabulary: Vocabulary) -> list[Block]:
    """Return the IoU or accuracy of each class in the last report, worst first, and confusions."""
    known = measured(past)
    if not known:
        return [Line("Nothing is measured yet.")]
    last, report, _ = known[-1]
    by_class = iou_by_class(report)
    figure = "IoU" if by_class else "accuracy"
    by_class = by_class or {
        score.key: score.accuracy
        for score in report.slices
        if [*score.attributes] == [vocabulary.class_attribute]
    }
    blocks: list[Block] = []
    if by_class:
        rows = sorted(by_class.items(), key=lambda pair: pair[1].value)
        title = f"Classes on feedback after round {last.label}"
        equal = [name for name, value in rows if value.value == rows[0][1].value]
        title += f"; worst: {' and '.join(equal)}" if len(equal) < max(2, len(rows)) else "; equal"
        cells = [[name, estimate_text(value)] for name, value in rows]
        blocks.append(Table(["class", figure], cells, title))
    blocks += [
        Line(f"{c.true}: {c.n} of {c.n_photographs} are taken for {c.predicted}.")
        for c in report.confusions
    ]
    return blocks or [Line(f"Round {last.label} was not measured by class.")]


def data_lines(past: Sequence[Round], settings: Settings, n_sealed: int | None) -> list[Block]:
    """Return how many images were made and kept, and the data of training and evaluation.

    Args:
        past: All rounds.
        settings: Settings of the session.
        n_sealed: Number of sealed test photographs; None: the test is still sealed.
    """
    blocks: list[Block] = []
    batches = [(r, r.batch) for r in past if r.batch]
    if batches:
        made, kept = (sum(getattr(b, name) for _, b in batches) for name in ("n_made", "n_kept"))
        columns = ["round", "made", "kept"]
        rows = [[r.label, str(b.n_made), str(b.n_kept)] for r, b in batches]
        title = f"{kept} kept by the audit ({percent(kept / made)}), {made - kept} not"
        if settings.audit.method == "none":
            columns, rows = columns[:2], [row[:2] for row in rows]
            title = "without an audit"
        title = f"{plural(made, 'image')} made, {title}"
        blocks.append(Table(columns, rows, title, columns))
    else:
        blocks.append(Line("No images are made yet."))
    blocks += mix_lines(settings.dstm, past, ())[1:]
    if known := measured(past):
        sealed = "" if n_sealed is None else f", and on {n_sealed} of the sealed test at the end"
        n = plural(known[-1][2].n, "feedback photograph")
        blocks.append(Line(f"Measured on {n}{sealed}."))
    return blocks


def prompt_lines(past: Sequence[Round], audited: bool, best: bool = False) -> list[Block]:
    """Return the kept rate and the credit of each prompt.

    The credit is the sum of the accuracy changes of its slices that are attributed to its images.

    Args:
        past: All rounds.
        audited: Whether images are audited; otherwise kept rates are left out.
        best: Whether the best prompts come first instead of the worst.
    """
    prompts = []
    for one in past:
        kept = {q.prompt_id: q.n_kept / q.n_made for q in one.batch.quality} if one.batch else {}
        for prompt in one.plan.prompts if one.plan else ():
            changes = [c.change for r in past for c in r.credits if c.prompt_id == prompt.id]
            rate = kept.get(prompt.id, 1.0) if audited else 1.0
            prompts.append((rate, sum(changes), prompt, bool(changes), prompt.id in kept))
    if not any(is_made for *_, is_made in prompts):
        return [Line("No images are made yet, so prompts cannot be compared.")]
    # The best prompts are sorted by credit first, the worst by kept rate first.
    key = (lambda p: (p[1], p[0])) if best else (lambda p: p[:2])
    prompts = sorted((p for p in prompts if p[-1]), key=key, reverse=best)
    rows: list[list[Cell]] = [
        [p.id, one_line(p.text, 60), str(p.count), percent(rate) if audited else None,
         signed(change) if has_credit else None]
        for rate, change, p, has_credit, _ in prompts[:_N_PROMPTS]
    ]  # fmt: skip
    order = "most credit" if best else "fewest kept and least credit"
    title = f"{len(rows)} of {plural(len(prompts), 'prompt')}, {order} first"
    columns = ["prompt", "text", "images", "kept", "credit"]
    return [Table(columns, rows, title, columns[2:]), Line("/show ID shows the images of one.")]


def history_lines(past: Sequence[Round]) -> list[Block]:
    """Return all metrics of the last report, and the reasons and verdict of each round."""
    blocks: list[Block] = [
        Line(f"Round {last.label}: {words(name)} {estimate_text(value)}")
        for last, report, _ in measured(past)[-1:]
        for name, value in report.metrics.items()
    ]
    for one in past:
        plan = one.plan
        if plan:
            why = quote(plan.why, 300)
            blocks.append(Line(f"Round {one.label}: planned by {plan.author}, because {why}"))
        if one.verdict:
            blocks.append(Line(f"Round {one.label}: {verdict_text(one.verdict)}"))
    return blocks


def slice_lines(
    named: dict[str, tuple[str, ...]],
    past: Sequence[Round],
    plan: Plan | None,
    vocabulary: Vocabulary,
) -> list[Block]:
    """Return the scores of named slices, and their share of the images of a plan.

    Args:
        named: Values by attribute, or pixel classes by "iou".
        past: All rounds.
        plan: The plan; None: shares are left out.
        vocabulary: Vocabulary of the target.
    """
    known = measured(past)
    pairs = [(key, value) for key, values in named.items() for value in values]
    single: list[dict[str, tuple[str, ...]]] = [{key: (value,)} for key, value in pairs]
    names = {slice_name(attributes): attributes for attributes in single}
    if all(len(values) == 1 for values in named.values()):
        whole = slice_name(named)
        if any(s.key == whole for _, report, _ in known for s in report.slices):
            names = {whole: named}
    blocks: list[Block] = []
    for name, attributes in names.items():
        scores = [(r, s.accuracy) for r, report, _ in known for s in report.slices if s.key == name]
        figure = "accuracy"
        if "iou" in attributes:
            figure, (name,) = "IoU", attributes["iou"]
            scores = [(r, by[name]) for r, rep, _ in known if name in (by := iou_by_class(rep))]
        if scores:
            last, value = scores[-1]
            text = f"{name} in round {last.label}: {figure} {estimate_text(value)}"
            if len(scores) > 1:
                first, old = scores[0]
                text += f", {signed(value.value - old.value)} since round {first.label}"
            bad = next((f for f in last.failures if f.slice == name and f.significant), None)
            text += "; significantly worse than the rest" if bad else ""
        else:
            text = f"{name}: not measured apart"
            parts = {f"{key}={value}" for key, values in attributes.items() for value in values}
            scores_of = known[-1][1].slices if known else ()
            within = [
                s for s in scores_of if parts <= {f"{k}={v}" for k, v in s.attributes.items()}
            ]
            within.sort(key=lambda score: score.accuracy.value)
            worst = [f"{s.key} {estimate_text(s.accuracy)}" for s in within[:_N_WITHIN]]
            text += f", but within {', '.join(worst)}" if worst else ""
        if plan and "iou" not in attributes:
            part = share(Preference(attributes=attributes, min_share=1), plan.prompts, vocabulary)
            text += f"; {percent(part)} of the images of the plan of round {plan.round}"
        blocks.append(Line(f"{text}."))
    return blocks


def current_share(
    dstm: DstmSettings, past: Sequence[Round], preferences: Sequence[Preference]
) -> float | None:
    """Return the share of generated images in the next training; None: chosen in round 1."""
    preferred = [p.synthetic_share for p in preferences if p.synthetic_share is not None]
    chosen = [t.synthetic_share for r in past if (t := r.training) and t.synthetic_share]
    share = [dstm.synthetic_share, *chosen[-1:], *preferred][-1]
    return None if share == "auto" else share


def mix_lines(
    dstm: DstmSettings, past: Sequence[Round], preferences: Sequence[Preference]
) -> list[Block]:
    """Return the training data of the DSTM: by settings and preferences, and of the last round."""
    text = f"The DSTM learns from {_LEARNT_FROM[dstm.train_on]} (dstm.train_on={dstm.train_on})"
    if dstm.train_on == "real+synthetic":
        share = current_share(dstm, past, preferences)
        part = "a part that round 1 chooses" if share is None else percent(share)
        text += (
            f"; {part} of the draws of a class are generated images, "
            "where it has both kinds (dstm.synthetic_share)"
        )
    blocks: list[Block] = [Line(f"{text}.")]
    trained = [r for r in past if r.training]
    if trained and (training := trained[-1].training):
        counts = [plural(training.n_real, "photograph")] if training.n_real else []
        counts += [plural(training.n_images, "generated image")] if training.n_images else []
        if counts:
            blocks.append(Line(f"Round {trained[-1].label}: {', '.join(counts)}."))
    return blocks
