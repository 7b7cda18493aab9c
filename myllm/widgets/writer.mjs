// The model writes in the page: the sentence first, then the picture.

export const LIMIT = 200; // characters of a prompt

// What is seen, in words.
export function describe(shares, bytes, temperature, written) {
  const [best] = likeliest(shares, 1);
  const bits = shares.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
  const state = written ? `After ${many(written, "token")} of its own` : "After your text";
  const unsure = temperature
    ? `at a temperature of ${temperature} the choice is as uncertain as a choice among ${(2 ** bits).toFixed(1)} equally likely tokens`
    : "at a temperature of 0 the model always chooses it";
  return `${state}, the model considers ‘${spell(bytes[best])}’ the most likely next token; ${unsure}.`;
}

const LENGTH = 160; // tokens of a text
const PAUSE = 50; // milliseconds a token, so that one can read along
const SHOWN = 5; // bars
const TEMPERATURES = Array.from({ length: 16 }, (_, i) => i / 10);

function render({ model, el }) {
  const { bytes, encode, decoder } = tokenizer(model.get("merges"));
  const layout = model.get("tensors");
  const form = Object.fromEntries(["heads", "context", "theta"].map((name) => [name, model.get(name)]));
  const size = layout.reduce((sum, [, rows, columns]) => sum + rows * (columns || 1), 0);
  const temperatures = [...new Set([...TEMPERATURES, model.get("temperature")])].sort((a, b) => a - b);
  let net, cache, logits, loading;
  let run = 0; // the number of the newest run; an older one ends
  let running = false;
  let written = 0; // tokens
  let shown; // the prompt

  const prompt = html("input", { type: "text", maxlength: LIMIT, autocomplete: "off", spellcheck: "false",
    oninput: () => put(model, "prompt", prompt.value), onkeydown: ({ key }) => key === "Enter" && begin() });
  const slider = html("input", { type: "range", min: 0, max: temperatures.length - 1, step: 1,
    oninput: () => put(model, "temperature", temperatures[slider.valueAsNumber]) });
  const warmth = html("span");
  const button = html("button", { type: "button", class: "write", onclick: () => (running ? stop() : begin()) }, "Write");
  const [told, newest] = [html("span"), html("span", { class: "newest" })];
  const given = html("b");
  const page = html("div", { class: "writing", tabindex: 0, role: "group", "aria-label": "The prompt and what the model writes" }, given, told, newest);
  const bars = html("ol", { class: "bars likely", "aria-label": "Most likely next tokens" });
  const { question, sentence } = frame(el, "Writer",
    [field("Prompt", prompt), field("Temperature", slider, warmth), button],
    [page, html("details", { open: model.get("start") }, html("summary", {}, "The five most likely next tokens"), bars)]);
  question.textContent = "Predict: which word comes next? Press Stop anywhere, decide, then look at the bars.";

  const load = () => (loading ??= fetchData(model, WEIGHTS, model.get("weights"))
    .then((data) => (net = unpack(asBytes(data), layout, form)))
    .catch((error) => {
      loading = undefined; // may be tried again
      throw error;
    }));
  const ids = (before = "") => encode(model.get("prompt").slice(0, LIMIT) + before || "\n");
  const say = (text) => void (sentence.textContent = text);
  const shares = () => probabilities(logits.subarray(0, bytes.length), model.get("temperature"));

  function draw() {
    if (!logits) return;
    const now = shares();
    bars.replaceChildren(...likeliest(now, SHOWN).map((id) => bar(spell(bytes[id]), now[id], percent(now[id]))));
    if (!running) say(describe(now, bytes, model.get("temperature"), written));
  }

  function show(piece) {
    told.append(newest.textContent);
    newest.textContent = piece;
    page.scrollTop = page.scrollHeight;
  }

  function stop() {
    run++;
    running = false;
    button.textContent = "Write";
    draw();
  }

  // Whether the weights are here and no other run has begun meanwhile.
  async function loaded(mine) {
    if (!net) say(`Loading the weights: ${many(size, "number")} of one byte each.`);
    try {
      await load();
    } catch {
      if (mine === run) {
        stop();
        say("The weights could not be loaded, so the model cannot write.");
      }
      return false;
    }
    return mine === run;
  }

  function clear(before = "") {
    cache = emptyCache(net);
    written = 0;
    told.textContent = before;
    newest.textContent = "";
  }

  // Writes a new text, or goes on from what was `written` earlier.
  async function begin(before = "") {
    const mine = ++run;
    running = true;
    button.textContent = "Stop";
    if (!(await loaded(mine))) return;
    clear(before);
    put(model, "seed", model.get("seed") + 1);
    say("The model is writing, one token at a time; press Stop to look at a single step.");
    const decode = decoder();
    const options = { text: bytes.length, temperature: () => model.get("temperature"), seed: model.get("seed"), length: LENGTH };
    for (const next of write(net, cache, ids(before), options)) {
      logits = next.logits;
      written++;
      show(decode(next.id));
      draw();
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
      if (mine !== run) return;
    }
    stop();
  }

  // A changed prompt ends the text; what may follow the prompt itself is shown.
  async function ponder() {
    stop();
    const mine = run;
    if (!(await loaded(mine))) return;
    clear();
    logits = read(net, cache, ids());
    draw();
  }

  const ends = [
    follow(model, ["temperature"], () => {
      const temperature = model.get("temperature");
      slider.value = temperatures.indexOf(temperature);
      warmth.textContent = temperature.toFixed(1);
      slider.setAttribute("aria-valuetext", warmth.textContent);
      draw();
    }),
    follow(model, ["prompt"], () => {
      const text = model.get("prompt");
      if (prompt.value !== text) prompt.value = text;
      given.textContent = text;
      if (shown !== undefined && shown !== text) ponder();
      shown = text;
    }),
  ];
  told.textContent = model.get("written");
  say(told.textContent
    ? "The model wrote this text earlier. Press Write, and it writes a new one in your browser."
    : `Press Write: a model of ${size.toLocaleString("en")} parameters is loaded into your browser and continues the prompt.`);

  const still = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)").matches || globalThis.navigator?.connection?.saveData;
  if (model.get("start") && !still)
    (globalThis.requestIdleCallback ?? setTimeout)(() => setTimeout(() => run || begin(model.get("written")), 1500));
  return () => {
    run++;
    ends.forEach((end) => end());
  };
}

export default { render };
