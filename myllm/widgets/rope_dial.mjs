// Rotary positions: pure functions first, as in `myllm.model.rope`, then the picture. Angles are in radians.

// The turn of each pair from one position to the next, from fast to slow.
export const frequencies = (dim, theta) => Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));

export const linear = (freq, { factor }) => freq.map((f) => f / factor);

const clamp = (x) => Math.min(Math.max(x, 0), 1);

// What turns often in the original context is kept, what turns seldom is divided, with a ramp in the number of turns.
export function llama3(freq, { factor, original_context, low_freq_factor: low, high_freq_factor: high }) {
  return freq.map((f) => {
    const keep = clamp(((original_context * f) / (2 * Math.PI) - low) / (high - low));
    return keep * f + ((1 - keep) * f) / factor;
  });
}

// The same with a ramp in the number of the pair.
export function yarn(freq, { factor, original_context, beta_fast, beta_slow }, theta) {
  const pair = (turns) => (freq.length * Math.log(original_context / (turns * 2 * Math.PI))) / Math.log(theta);
  const low = Math.max(Math.floor(pair(beta_fast)), 0);
  const high = Math.min(Math.ceil(pair(beta_slow)), 2 * freq.length - 1);
  return freq.map((f, i) => {
    const divide = clamp((i - low) / Math.max(high - low, 0.001));
    return (1 - divide) * f + (divide * f) / factor;
  });
}

// The frequencies under a scaling, or under none.
export function scaled(dim, theta, scaling) {
  const freq = frequencies(dim, theta);
  return { linear, llama3, yarn }[scaling.kind]?.(freq, scaling, theta) ?? freq;
}

// How much longer queries and keys become.
export const growth = ({ kind, factor }) => (kind === "yarn" ? 0.1 * Math.log(factor) + 1 : 1);

// A pair of numbers at a position.
export function turned([a, b], position, freq, grow = 1) {
  const [cos, sin] = [grow * Math.cos(position * freq), grow * Math.sin(position * freq)];
  return [a * cos - b * sin, b * cos + a * sin];
}

const HAND = [1, 0]; // query and key before they turn

// What one pair adds to the score of a query at m and a key at n.
export function pairScore(m, n, freq, grow = 1) {
  const [q, k] = [turned(HAND, m, freq, grow), turned(HAND, n, freq, grow)];
  return q[0] * k[0] + q[1] * k[1];
}

const LIMITS = { low_freq_factor: 1, high_freq_factor: 4, beta_fast: 32, beta_slow: 1 };
const three = (x) => x.toLocaleString("en", { maximumSignificantDigits: 3 });
const decimals = (x) => x.toFixed(3).replace(/^-(0\.0+)$/, "$1").replace("-", "−");
const degrees = (angle) => `${three((180 * angle) / Math.PI)}°`;
const wavelength = (freq) => (2 * Math.PI) / freq;

// What is to be seen, in words.
export function describe({ pair, freq, plain, grow, query, key, shift }) {
  const before = freq === plain ? "" : ` (${three(wavelength(plain))} without scaling)`;
  const same = shift ? `, the same as before the shift of ${shift}` : "";
  return `Pair ${pair} rotates by ${degrees(freq)} per token, a full turn in ${three(wavelength(freq))} tokens${before}. ` +
    `The query at ${query + shift} and the key at ${key + shift} are ${many(Math.abs(query - key), "token")} apart: ` +
    `score ${decimals(pairScore(query + shift, key + shift, freq, grow))}${same}.`;
}

const SCALINGS = [["none", "none"], ["linear", "linear"], ["llama3", "LLaMA 3"], ["yarn", "YaRN"]];
const PLACES = Array.from({ length: 101 }, (_, i) => i);
const RADIUS = 90; // of the dial
const [LEFT, WIDE, HIGH] = [40, 330, 190]; // of the chart

const tip = (angle, length) => `${(length * Math.cos(angle)).toFixed(2)} ${(-length * Math.sin(angle)).toFixed(2)}`;

// From one angle on to a later one; a whole turn is left out.
function arc(from, to, radius) {
  const [start, end] = from < to ? [from, to] : [to, from];
  const large = (end - start) % (2 * Math.PI) > Math.PI ? 1 : 0;
  return `M${tip(start, radius)}A${radius} ${radius} 0 ${large} 0 ${tip(end, radius)}`;
}

function render({ model, el }) {
  const dim = model.get("head_dim");
  const original_context = model.get("original_context");
  const pairs = Array.from({ length: dim / 2 }, (_, i) => i);
  const change = (name) => (value) => put(model, name, value);
  const controls = {
    pair: slider("Pair", change("pair")),
    query: slider("Query at m", change("query")),
    key: slider("Key at n", change("key")),
    shift: slider("Shift of both", change("shift")),
    theta: slider("Base θ", change("theta")),
    factor: slider("Factor", change("factor")),
  };
  const scaling = select("Scaling", SCALINGS, change("scaling"));

  const line = (name) => svg("path", { class: name });
  const hands = { q: line("hand query"), k: line("hand key"), oldQ: line("ghost query"), oldK: line("ghost key"), between: line("between") };
  const R = RADIUS + 6;
  const dial = svg("svg", { viewBox: `${-R} ${-R} ${2 * R} ${2 * R}`, role: "img", class: "dial", "aria-label": "The hands of the query and the key of this pair" },
    svg("circle", { r: RADIUS }), hands.between, hands.oldQ, hands.oldK, hands.k, hands.q);
  const swatch = (role, what) => html("span", {}, html("span", { class: `swatch ${role}` }), " ", what);
  const [atQuery, atKey] = [html("span"), html("span")];
  const facts = html("dl", { class: "facts" });

  const spots = pairs.map(() => [svg("circle", { r: 2.6, class: "plain" }), svg("circle", { r: 2.6 })]);
  const waves = html("p", { class: "note" });
  const axis = svg("g");
  const chart = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "waves" }, axis, ...spots.flat());

  const { question, sentence } = frame(el, "RoPE dial", [scaling.label, dials(...Object.values(controls))],
    [html("div", { class: "pair" },
      html("div", { class: "part" }, dial, html("p", { class: "note keys" }, swatch("query", atQuery), swatch("key", atKey)), facts),
      html("div", { class: "part" }, waves, chart))]);
  question.textContent = "Predict: what happens to the score when both tokens move to the right? Decide, then move ‘Shift of both’.";

  return follow(model, ["pair", "query", "key", "shift", "theta", "factor", "scaling"], () => {
    const [pair, m, n, shift, theta, factor, kind] =
      ["pair", "query", "key", "shift", "theta", "factor", "scaling"].map((name) => model.get(name));
    const rule = { ...LIMITS, kind, factor, original_context };
    const [plain, freq, grow] = [frequencies(dim, theta), scaled(dim, theta, rule), growth(rule)];
    controls.pair.show(pair, pairs);
    controls.query.show(m, PLACES);
    controls.key.show(n, PLACES);
    controls.shift.show(shift, PLACES);
    controls.theta.show(theta, steps([1000, 10000, 100000, 500000, 1000000], theta));
    controls.factor.show(factor, steps(powers(1, 64), factor));
    scaling.show(kind);

    const f = freq[pair];
    const length = (RADIUS - 8) * Math.min(grow, 1.09); // YaRN's hands grow, but stay on the dial
    hands.q.setAttribute("d", `M0 0L${tip((m + shift) * f, length)}`);
    hands.k.setAttribute("d", `M0 0L${tip((n + shift) * f, 0.75 * length)}`); // shorter and thicker: seen beneath the other
    hands.oldQ.setAttribute("d", shift ? `M0 0L${tip(m * f, length)}` : "");
    hands.oldK.setAttribute("d", shift ? `M0 0L${tip(n * f, 0.75 * length)}` : "");
    hands.between.setAttribute("d", arc((n + shift) * f, (m + shift) * f, RADIUS / 2.4));
    atQuery.textContent = `query at ${m + shift}`;
    atKey.textContent = `key at ${n + shift}`;

    const fact = (name, value) => html("div", {}, html("dt", {}, name), html("dd", {}, value));
    const mean = freq.reduce((sum, w) => sum + pairScore(m + shift, n + shift, w, grow), 0) / freq.length;
    facts.replaceChildren(fact("distance m − n", decimals(m - n).replace(".000", "")), fact("angle between", degrees((Math.abs(m - n) * f) % (2 * Math.PI))),
      fact("score of this pair", decimals(pairScore(m + shift, n + shift, f, grow))), fact(`mean of all ${pairs.length} pairs`, decimals(mean)));

    const top = Math.ceil(Math.log10(Math.max(wavelength(freq.at(-1)), original_context)));
    const x = (i) => LEFT + 8 + (i * (WIDE - LEFT - 16)) / Math.max(1, pairs.length - 1);
    const y = (tokens) => HIGH - 24 - ((Math.log10(tokens) - 0.5) * (HIGH - 34)) / (top - 0.5);
    const label = (at, height, text, side = "end") => svg("text", { x: at, y: height, "text-anchor": side }, text);
    axis.replaceChildren(
      ...Array.from({ length: top }, (_, i) => 10 ** (i + 1)).flatMap((tokens) => [
        svg("path", { class: "rule", d: `M${LEFT} ${y(tokens)}H${WIDE}` }),
        label(LEFT - 4, y(tokens) + 4, brief(tokens, ["", "k", "M", "G", "T"]).replace(" ", ""))]),
      svg("path", { class: "context", d: `M${LEFT} ${y(original_context)}H${WIDE}` }),
      label(LEFT + 4, y(original_context) - 4, `context ${original_context.toLocaleString("en")}`, "start"),
      svg("path", { class: "rule", d: `M${x(pair)} ${y(wavelength(f))}V${HIGH - 20}` }),
      label(x(pair), HIGH - 6, `pair ${pair}`, pair < pairs.length / 8 ? "start" : pair > (7 * pairs.length) / 8 ? "end" : "middle"));
    spots.forEach(([before, now], i) => {
      for (const [spot, w] of [[before, plain[i]], [now, freq[i]]]) {
        spot.setAttribute("cx", x(i));
        spot.setAttribute("cy", y(wavelength(w)));
      }
      now.setAttribute("class", i === pair ? "chosen" : "now");
      now.setAttribute("r", i === pair ? 5 : 2.6);
    });
    waves.textContent = `Tokens for a full turn, pair by pair; dashed: the original context${kind === "none" ? "" : "; hollow circles: without scaling"}`;
    const slow = freq.filter((w) => wavelength(w) > original_context).length;
    chart.setAttribute("aria-label", `Tokens for a full turn, from ${three(wavelength(freq[0]))} for pair 0 to ` +
      `${three(wavelength(freq.at(-1)))} for pair ${pairs.length - 1}; ${many(slow, "pair")} do not complete a turn within the original context of ${original_context.toLocaleString("en")} tokens`);
    sentence.textContent = describe({ pair, freq: f, plain: plain[pair], grow, query: m, key: n, shift });
  });
}

export default { render };
