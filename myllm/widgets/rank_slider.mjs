// A change of weights and its first directions: pure functions first, then the picture.

const sum = (list) => list.reduce((total, x) => total + x, 0);

// The share of the squared norm in the first r directions.
export const energy = (values, r) => sum(values.slice(0, r).map((x) => x * x)) / (sum(values.map((x) => x * x)) || 1);

// The numbers that a change of rank r needs, and those of the whole matrix.
export const numbers = ([N, K], r) => [Math.min(r, N, K) * (N + K), N * K];

export const at = (points, r) => points.find((point) => point.r === r);

const whole = (p) => `${(100 * p).toFixed(0)} %`;

// What is to be seen, in words.
export function describe(layer, points, trained, r) {
  const [kept, all] = numbers(layer.shape, r);
  const most = Math.min(...layer.shape);
  const size = r === 0 ? "no numbers" : r >= most ? `${all.toLocaleString("en")} numbers, the whole matrix`
    : `${kept.toLocaleString("en")} numbers, ${kept < all ? "where the matrix has" : "more than the"} ${all.toLocaleString("en")}${kept < all ? "" : " of the matrix"}`;
  const first = r === 0 ? "Nothing of the change is kept"
    : `The first ${r < most ? (r === 1 ? "direction holds" : `${r} directions hold`) : `${most} directions hold`} ${whole(energy(layer.values, r))} of this layer’s squared change in ${size}`;
  const point = at(points, r);
  const model = point ? ` With ${r === 0 ? "no direction" : r === 1 ? "one direction" : `the first ${r}`} in every layer, the model answers ${whole(point.exact)} of the questions.` : "";
  const other = at(trained, r);
  return `${first}.${model}${other ? ` Adapters of rank ${r}, trained, answer ${whole(other.exact)}.` : ""}`;
}

const [WIDE, HIGH] = [340, 190];

function render({ model, el }) {
  const change = (name) => (value) => put(model, name, value);
  const runs = model.get("runs");
  const number = (name) => (value) => put(model, name, Number(value));
  const run = select("Full tuning with", runs.map(({ name }, i) => [String(i), name]), number("run"));
  const layer = select("Layer", runs[0].layers.map(({ name }, i) => [String(i), name]), number("layer"));
  const rank = slider("Rank", change("rank"));
  const spectrum = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "spectrum" });
  const answers = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "spectrum" });
  const picture = html("div", { class: "pair" }, html("div", { class: "part" }, spectrum), html("div", { class: "part" }, answers));
  const legend = html("p", { class: "keys note" });
  const { question, sentence } = frame(el, "Rank slider", [run.label, layer.label, dials(rank)], [picture, legend]);
  question.textContent = "Predict: how many directions must be kept until the model answers half of the questions? Decide, then move the slider.";

  return follow(model, ["run", "layer", "rank"], () => {
    const [r, trained] = [model.get("rank"), model.get("trained")];
    const { layers, points } = runs[model.get("run")];
    const shown = layers[Math.min(model.get("layer"), layers.length - 1)];
    run.show(String(model.get("run")));
    layer.show(String(layers.indexOf(shown)));
    rank.show(r, steps(points.map((point) => point.r), r));
    const { values } = shown;
    const [left, floor, top] = [12, HIGH - 26, 24];
    const x = (i) => left + (i * (WIDE - 2 * left)) / values.length;
    const y = (value) => floor - ((floor - top) * value) / (values[0] || 1);
    const area = (from, to) => from >= to ? "" : `M${x(from)} ${floor}${values.slice(from, to).map((value, i) => `L${x(from + i).toFixed(1)} ${y(value).toFixed(1)}H${x(from + i + 1).toFixed(1)}`).join("")}V${floor}Z`;
    const cut = Math.min(r, values.length);
    spectrum.replaceChildren(
      svg("path", { class: "rest", d: area(cut, values.length) }),
      svg("path", { class: "kept", d: area(0, cut) }),
      svg("path", { class: "axis", d: `M${left} ${floor}H${WIDE - left}` }),
      svg("text", { x: left, y: 13 }, "singular values of the layer’s change"),
      svg("text", { x: WIDE - left, y: HIGH - 8, "text-anchor": "end" }, `1 to ${values.length}`),
      svg("text", { class: "name", x: left, y: HIGH - 8 }, `kept: ${whole(energy(values, r))}`),
    );
    spectrum.setAttribute("aria-label", `${values.length} singular values from ${values[0]} down to ${values.at(-1)}; the first ${cut} are kept`);

    const across = points.map((point) => point.r);
    const place = (value) => left + ((WIDE - 2 * left - 4) * Math.log2(1 + value)) / Math.log2(1 + Math.max(1, ...across));
    const height = (share) => floor - (floor - top) * share;
    const line = (list) => list.map((point, i) => `${i ? "L" : "M"}${place(point.r).toFixed(1)} ${height(point.exact).toFixed(1)}`).join("");
    const marks = (kind, list) => list.map((point) => svg("circle", { class: kind, cx: place(point.r), cy: height(point.exact), r: point.r === r ? 5.5 : 2.5 }));
    answers.replaceChildren(
      svg("path", { class: "axis", d: `M${left} ${floor}H${WIDE - left}M${left} ${height(1)}H${WIDE - left}` }),
      svg("path", { class: "here", d: `M${place(r)} ${height(1)}V${floor}` }),
      svg("path", { class: "cut", d: line(points) }), ...marks("cut", points),
      ...(trained.length ? [svg("path", { class: "trained", d: line(trained) }), ...marks("trained", trained)] : []),
      svg("text", { x: left, y: 13 }, "right answers, 0 to 100 %"),
      svg("text", { x: WIDE - left, y: HIGH - 8, "text-anchor": "end" }, "rank, on a logarithmic axis"),
    );
    answers.setAttribute("aria-label", `Right answers against the rank${at(points, r) ? `: ${whole(at(points, r).exact)} at ${r}` : ""}`);
    legend.replaceChildren(
      html("span", {}, html("span", { class: "swatch cut" }), " full tuning, first directions kept"),
      ...(trained.length ? [html("span", {}, html("span", { class: "swatch trained" }), " adapters, trained")] : []));
    sentence.textContent = describe(shown, points, trained, r);
  });
}

export default { render };
