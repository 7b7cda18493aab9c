// A page that holds a model: it continues what one types.

// Tokens are not drawn here one by one, so nothing needs a mark in place of white space.
const visible = (character) => character;

// The model and its tokenizer from the page's two blocks of data.
export async function load(spec, weights) {
  const { encode, decoder } = tokenizer(spec.merges, compile(spec.pattern));
  const net = unpack(await inflate(weights.replaceAll(".", "<")), spec.layout, spec.form);
  const vocabulary = net.tensors["embed_tokens.weight"].length / net.width;
  return { net, decoder, vocabulary, ends: new Set(spec.ends), encode: (text) => (text ? encode(text) : [spec.start]) };
}

// The ids that continue those of a prompt, until one ends the text. After each token, read or written, `breathe` lets
// the page live.
export async function* compose({ net, ends, vocabulary }, prompt, { temperature, seed, length, breathe }) {
  const cache = emptyCache(net);
  for (const id of prompt.slice(0, -1)) {
    read(net, cache, [id]);
    await breathe();
  }
  for (const { id } of write(net, cache, prompt.slice(-1), { text: vocabulary, temperature, seed, length })) {
    if (ends.has(id)) return;
    yield id;
    await breathe();
  }
}

// Returns a function that waits until the browser has done what else it has to do. A message comes at once in a hidden
// tab, too, where timers and frames are held back.
export function breather() {
  const { port1, port2 } = new MessageChannel();
  const waiting = [];
  port1.onmessage = () => waiting.shift()();
  return () => new Promise((resolve) => {
    waiting.push(resolve);
    port2.postMessage(0);
  });
}

// What the page says when a text has ended, after so many seconds from its first token on.
export function verdict(why, written, seconds) {
  const speed = written > 1 ? `, ${Math.round((written - 1) / seconds).toLocaleString("en")} a second` : "";
  return `${why} after ${many(written, "token")}${speed}.`;
}

async function begin(document) {
  const part = (id) => document.getElementById(id);
  const [form, prompt, warmth, temperature, seed, button] = ["form", "prompt", "warmth", "temperature", "seed", "write"].map(part);
  const [length, page, given, told, status] = ["length", "page", "given", "told", "status"].map(part);
  const say = (text) => void (status.textContent = text);
  const heat = () => temperature.valueAsNumber;
  const warm = () => {
    warmth.textContent = heat() ? heat().toFixed(1) : "0, always the likeliest";
    temperature.setAttribute("aria-valuetext", warmth.textContent);
  };
  temperature.addEventListener("input", warm);
  warm();
  const spec = JSON.parse(part("spec").textContent);
  prompt.value = spec.prompt;
  const breathe = breather();
  let model;
  try {
    model = await load(spec, part("weights").textContent);
  } catch {
    say("The weights could not be unpacked: the file is damaged, or the browser is older than 2023.");
    return;
  }
  let run = 0; // the number of the newest run; an older one ends
  let running = false;
  let [written, since] = [0, 0];

  async function start() {
    const mine = ++run;
    running = true;
    button.textContent = "Stop";
    const ids = model.encode(prompt.value);
    const [most, chosen, decode] = [Number(length.value), seed.valueAsNumber || 0, model.decoder()];
    [given.textContent, told.textContent] = [prompt.value, ""];
    [written, since] = [0, performance.now()];
    say(ids.length > model.net.context
      ? `The text is ${many(ids.length, "token")}; the model sees the newest of them alone.` : "Writing …");
    for await (const id of compose(model, ids, { temperature: heat, seed: chosen, length: most, breathe })) {
      if (mine !== run) return;
      if (!written++) since = performance.now();
      const below = page.scrollHeight - page.clientHeight - page.scrollTop;
      told.append(decode(id));
      if (below < 40) page.scrollTop = page.scrollHeight; // unless one reads further up
    }
    if (mine === run) end(written < most ? "The model ended its text" : "Done");
  }

  function end(why) {
    run++;
    running = false;
    button.textContent = "Write";
    say(verdict(why, written, (performance.now() - since) / 1000));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) end("Stopped");
    else start();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  globalThis.myllm = {
    encode: model.encode,
    decode: (ids) => ids.map(model.decoder()).join(""),
    logits: (ids) => read(model.net, emptyCache(model.net), ids),
    async write(text, { temperature = 0, seed = 1, length = 50 } = {}) {
      const [ids, options] = [[], { temperature: () => temperature, seed, length, breathe }];
      for await (const id of compose(model, model.encode(text), options)) ids.push(id);
      return ids;
    },
  };
  button.disabled = false;
  say("Ready.");
}

if (globalThis.document) begin(document);
