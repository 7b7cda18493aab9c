// Requests over the steps of an engine: pure functions first, then the picture.

const [ADD, SHARE, PREFILL, DECODE, PREEMPT, FINISHED, CANCELLED, FAILED] = Array.from({ length: 8 }, (_, i) => i);
const ENDS = { [FINISHED]: "finished", [CANCELLED]: "cancelled", [FAILED]: "failed" };

// For each request what happens in each step: "waits", "prefill", "decode", or "" where it does not exist or is
// admitted but not computed. `marks` are moments: shared, preempted, ended.
export function timeline({ events }) {
  const steps = Math.max(...events.map(([step]) => step)) + 1;
  const count = Math.max(...events.map(([, request]) => request)) + 1;
  const rows = Array.from({ length: count }, () => ({ cells: Array(steps).fill(""), marks: [], computed: 0, shared: 0, preempted: 0, end: "" }));
  const [blocks, used] = [Math.max(...events.map(([, , , , free]) => free)), Array(steps).fill(null)];
  const waits = Array(count).fill(null); // since when
  for (const [step, request, kind, n, free] of events) {
    const row = rows[request];
    used[step] = blocks - free;
    if (waits[request] !== null && kind !== ADD && kind !== PREEMPT) {
      for (let t = waits[request]; t < step; t++) row.cells[t] ||= "waits";
      waits[request] = null;
    }
    if (kind === ADD) waits[request] = step;
    if (kind === SHARE) [row.shared, row.marks] = [row.shared + n, [...row.marks, { step, what: "shared", n }]];
    if (kind === PREFILL || kind === DECODE) {
      row.cells[step] = kind === PREFILL || n > 1 ? "prefill" : "decode";
      row.computed += n;
    }
    if (kind === PREEMPT) [row.preempted, row.marks, waits[request]] = [row.preempted + 1, [...row.marks, { step, what: "preempted", n }], step + 1];
    if (ENDS[kind]) [row.end, row.marks] = [ENDS[kind], [...row.marks, { step, what: ENDS[kind], n }]];
  }
  for (let t = 0; t < steps; t++) used[t] ??= t ? used[t - 1] : 0;
  return { rows, steps, blocks, used };
}

// What happens up to a step, in words.
export function describe(run, step) {
  const until = { ...run, events: run.events.filter(([at]) => at <= step) };
  const sum = (wanted) => until.events.reduce((total, [, , kind, n]) => total + (wanted.includes(kind) ? n : 0), 0);
  const times = (wanted) => until.events.filter(([, , kind]) => kind === wanted).length;
  const whole = timeline(run);
  const now = run.events.filter(([at, , kind]) => at === step && (kind === PREFILL || kind === DECODE));
  const rows = now.filter(([, , , n]) => n === 1).length;
  return `Step ${step} of ${whole.steps - 1}: ${many(rows, "request")} ${rows === 1 ? "gets its" : "get their"} next token, and ` +
    `${many(now.reduce((total, [, , , n]) => total + (n > 1 ? n : 0), 0), "token")} of prompts are computed. ` +
    `So far ${many(sum([PREFILL, DECODE]), "token")} computed, ${sum([SHARE]).toLocaleString("en")} taken from the prefix cache, ` +
    `${many(times(PREEMPT), "preemption")}; ${whole.used[step]} of ${many(whole.blocks, "block")} in use.`;
}

const [LEFT, WIDE, ROW, GRAPH] = [74, 620, 17, 54];
const LABELS = { waits: "waiting", prefill: "prompt computed", decode: "one token" };

function render({ model, el }) {
  const runs = model.get("runs");
  const which = select("Run", runs.map(({ name }, i) => [String(i), name]), (i) => {
    model.set("step", -1);
    put(model, "run", Number(i));
  });
  const at = slider("Step", (step) => put(model, "step", step));
  const drawing = svg("svg", { role: "img", class: "gantt" });
  const note = html("p", { class: "note" }, ...Object.entries(LABELS).flatMap(([kind, said]) => [html("span", { class: `swatch ${kind}` }), ` ${said}  `]),
    "⊂ prefix found   ✕ preempted   ● ended");
  const { question, sentence } = frame(el, "Scheduler timeline", [dials(which, at)], [note, drawing]);
  question.textContent = "Predict: where blocks are short, which request is preempted first, and does request 0 ever wait? Decide, then move ‘Step’.";

  return follow(model, ["run", "step"], () => {
    const run = runs[model.get("run")];
    const { rows, steps: count, blocks, used } = timeline(run);
    const step = model.get("step") < 0 ? count - 1 : Math.min(model.get("step"), count - 1);
    which.show(String(model.get("run")));
    at.show(step, Array.from({ length: count }, (_, i) => i));
    const width = (WIDE - LEFT - 6) / count;
    const x = (t) => (LEFT + t * width).toFixed(1);
    const bottom = rows.length * ROW;
    const height = bottom + GRAPH + 22;
    const level = (n) => bottom + GRAPH - (n / blocks) * (GRAPH - 14);
    const cells = rows.flatMap(({ cells: all, marks }, i) => [
      svg("text", { x: 0, y: i * ROW + 13 }, `request ${i}`),
      ...all.flatMap((kind, t) => (kind ? [svg("rect", { class: `${kind}${t > step ? " later" : ""}`, x: x(t), y: i * ROW + 3, width: Math.max(0.6, width - (width > 3 ? 1 : 0)).toFixed(1), height: ROW - 5 })] : [])),
      ...marks.filter((mark) => mark.step <= step).map((mark) =>
        svg("text", { class: "mark", x: (LEFT + (mark.step + 0.5) * width).toFixed(1), y: i * ROW + 13 }, { shared: "⊂", preempted: "✕" }[mark.what] ?? "●")),
    ]);
    const path = used.slice(0, step + 1).map((n, t) => `${t ? "L" : "M"}${x(t)} ${level(n).toFixed(1)}H${x(t + 1)}`).join("");
    drawing.setAttribute("viewBox", `0 0 ${WIDE} ${height}`);
    drawing.replaceChildren(...cells,
      svg("text", { x: 0, y: bottom + 24 }, "blocks"), svg("text", { x: LEFT - 4, y: level(blocks) + 4, "text-anchor": "end" }, String(blocks)),
      svg("text", { x: LEFT - 4, y: level(0) + 4, "text-anchor": "end" }, "0"),
      svg("path", { class: "rule", d: `M${LEFT} ${level(blocks)}H${WIDE}M${LEFT} ${level(0)}H${WIDE}` }), svg("path", { class: "used", d: path }),
      svg("path", { class: "now", d: `M${x(step + 1)} 0V${bottom + GRAPH}` }), svg("text", { x: LEFT, y: height - 4 }, "steps →"));
    drawing.setAttribute("aria-label", rows.map(({ preempted, end }, i) => `request ${i}: ${end || "running"}${preempted ? `, preempted ${many(preempted, "time")}` : ""}`).join("; "));
    sentence.textContent = describe(run, step);
  });
}

export default { render };
