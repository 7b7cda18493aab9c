// The bytes alive during one training step: pure functions first, then the picture.

export const KINDS = ["parameters", "optimizer", "gradients", "activations", "logits"];

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

// What a layer keeps under recomputation: its input, by default a sixteenth of its activations.
export const inputs = ({ layers, inputs: given }) => given ?? layers.map((bytes) => bytes / 16);

// The moments of a step, each with what is alive in it and how long it lasts, in forward passes of a layer.
// A micro-batch is an equal part of the batch, so its activations and logits are too. The gradients arrive in equal
// shares, layer by layer, in the first micro-batch, and stay until the update. Backward passes last twice as long.
export function timeline(config, recompute, micro) {
  const { parameters, optimizer, gradients, layers, logits } = config;
  const n = layers.length;
  const whole = layers.map((bytes) => bytes / micro);
  const kept = recompute ? inputs(config).map((bytes) => bytes / micro) : whole;
  const moments = [];
  const at = (phase, lasts, alive) => moments.push({ phase, lasts, alive: { parameters, optimizer, gradients: 0, activations: 0, logits: 0, ...alive } });
  at("before the step", 1, {});
  for (let batch = 1; batch <= micro; batch++) {
    const before = batch > 1 ? gradients : 0;
    const where = micro > 1 ? `, micro-batch ${batch} of ${micro}` : "";
    for (let i = 0; i < n; i++) at(`forward, layer ${i}${where}`, 1, { gradients: before, activations: sum(kept.slice(0, i + 1)) });
    at(`logits and loss${where}`, 3, { gradients: before, activations: sum(kept), logits: logits / micro });
    for (let i = n - 1; i >= 0; i--)
      at(`backward, layer ${i}${where}`, recompute ? 3 : 2, {
        gradients: batch > 1 ? gradients : (gradients * (n - i)) / n,
        activations: sum(kept.slice(0, i)) + whole[i],
      });
  }
  at("update by the optimizer", 1, { gradients });
  at("after the step", 1, {});
  return moments;
}

export const total = (alive) => sum(Object.values(alive));

// The first moment with the most bytes.
export function peak(moments) {
  const sizes = moments.map(({ alive }) => total(alive));
  return sizes.indexOf(Math.max(...sizes));
}

// What is to be seen, in words.
export function describe(config, recompute, micro) {
  const moments = timeline(config, recompute, micro);
  const { phase, alive } = moments[peak(moments)];
  const bytes = total(alive);
  const other = timeline(config, !recompute, micro);
  const most = total(other[peak(other)].alive);
  const largest = KINDS.reduce((best, kind) => (alive[kind] > alive[best] ? kind : best));
  return `${config.name}: the peak is ${inBytes(bytes)}, reached at ‘${phase}’; ${percent(bytes && alive[largest] / bytes)} of it ` +
    `${largest === "optimizer" ? "is the optimizer's state" : `are ${largest}`}, and ${recompute ? "without" : "with"} recomputation it would be ${inBytes(most)}.`;
}

const ROLES = { parameters: "weights", optimizer: "masked", gradients: "value", activations: "query", logits: "key" };
const TITLES = { parameters: "Parameters", optimizer: "Optimizer", gradients: "Gradients", activations: "Activations", logits: "Logits and loss" };
const [LEFT, WIDE, HIGH] = [52, 340, 190]; // of the chart

function render({ model, el }) {
  const configs = model.get("configs");
  const moving = (name) => (value) => {
    model.set("moment", -1); // back to the peak
    put(model, name, value);
  };
  const which = select("Model", configs.map(({ name }, i) => [String(i), name]), (i) => moving("config")(Number(i)));
  const again = toggle("Recompute activations", moving("recompute"));
  const micro = slider("Micro-batches", moving("micro_batches"));
  let moments = [];
  const moment = slider("Moment", (i) => put(model, "moment", i), (i) => moments[i].phase);

  const areas = Object.fromEntries(KINDS.map((kind) => [kind, svg("path", { class: ROLES[kind] })]));
  const axis = svg("g");
  const chart = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "areas" }, ...Object.values(areas), axis);
  const note = html("p", { class: "note" });
  const list = html("ul", { class: "bars spans", "aria-label": "Bytes at this moment" });
  const { question, sentence } = frame(el, "Memory timeline", [which.label, again.label, dials(micro, moment)],
    [html("div", { class: "pair" }, html("div", { class: "whole" }, chart, note), html("div", { class: "part" }, list))]);
  question.textContent = "Predict: at which moment of a training step is the most memory in use, and what takes it? Decide, then switch on ‘Recompute activations’.";

  return follow(model, ["config", "recompute", "micro_batches", "moment"], () => {
    const [config, recompute, parts] = [configs[model.get("config")], model.get("recompute"), model.get("micro_batches")];
    moments = timeline(config, recompute, parts);
    const top = peak(moments);
    const now = model.get("moment") < 0 ? top : Math.min(model.get("moment"), moments.length - 1);
    which.show(String(model.get("config")));
    again.show(recompute);
    micro.show(parts, steps(powers(1, 32), parts));
    moment.show(now, moments.map((_, i) => i));

    // The scale is that of the plain step, so that the reader sees what recomputation and micro-batches save.
    const most = Math.max(1, ...[timeline(config, false, 1), moments].map((all) => total(all[peak(all)].alive)));
    const ends = moments.map(({ lasts }, i) => sum(moments.slice(0, i).map((one) => one.lasts)) + lasts);
    const x = (time) => LEFT + (time * (WIDE - LEFT - 4)) / ends.at(-1);
    const y = (bytes) => HIGH - 20 - (bytes * (HIGH - 32)) / most;
    const start = (i) => x(ends[i] - moments[i].lasts);
    const below = moments.map(() => 0);
    for (const kind of KINDS) {
      const floor = below.map((bytes, i) => `L${x(ends[i]).toFixed(1)} ${y(bytes).toFixed(1)}L${start(i).toFixed(1)} ${y(bytes).toFixed(1)}`).toReversed();
      moments.forEach(({ alive }, i) => { below[i] += alive[kind]; });
      const roof = below.map((bytes, i) => `${i ? "L" : "M"}${start(i).toFixed(1)} ${y(bytes).toFixed(1)}H${x(ends[i]).toFixed(1)}`);
      areas[kind].setAttribute("d", `${roof.join("")}${floor.join("")}Z`);
    }
    const label = (at, height, said, side) => svg("text", { x: at, y: height, "text-anchor": side }, said);
    const line = (i, kind) => svg("path", { class: kind, d: `M${((start(i) + x(ends[i])) / 2).toFixed(1)} ${y(total(moments[i].alive)) - 2}V${HIGH - 20}` });
    axis.replaceChildren(
      ...[0, 0.5, 1].flatMap((share) => [svg("path", { class: "rule", d: `M${LEFT} ${y(share * most)}H${WIDE}` }),
        label(LEFT - 4, y(share * most) + 4, inBytes(share * most), "end")]),
      line(top, "peak"), line(now, "now"), label(LEFT, HIGH - 5, "time →", "start"));
    note.textContent = "Solid line: the moment shown; dashed: the peak." +
      (recompute ? ` Each layer keeps its input, ${inBytes(inputs(config)[0])} per batch for layer 0, and runs forward twice.` : "");
    chart.setAttribute("aria-label", `Bytes alive from the beginning to the end of a step, between ${inBytes(Math.min(...below))} and ${inBytes(total(moments[top].alive))}`);

    const { alive } = moments[now];
    list.replaceChildren(...KINDS.map((kind) =>
      html("li", {}, html("p", { class: "head" }, html("span", {}, html("span", { class: `swatch ${ROLES[kind]}` }), ` ${TITLES[kind]}`), html("b", {}, inBytes(alive[kind]))),
        html("div", { class: "track" }, html("div", { class: `bar ${ROLES[kind]}`, style: `width: ${(100 * alive[kind]) / most}%` })))),
      html("li", {}, html("p", { class: "head" }, html("span", {}, "All"), html("b", {}, inBytes(total(alive))))));
    sentence.textContent = describe(config, recompute, parts);
  });
}

export default { render };
