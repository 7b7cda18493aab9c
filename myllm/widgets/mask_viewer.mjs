// Chat formats, loss masks and packed rows: pure functions first, then the picture.

export const LIMIT = 400; // characters

// Conversations as typed: "role: text" begins a message, "---" a conversation; other lines go on with their message.
export function read(text) {
  const found = [[]];
  for (const line of text.split("\n")) {
    const start = /^(system|user|assistant): ?(.*)$/.exec(line);
    if (line.trim() === "---") found.push([]);
    else if (start) found.at(-1).push({ role: start[1], content: start[2] });
    else if (found.at(-1).length) found.at(-1).at(-1).content += `\n${line}`;
    else if (line.trim()) throw new Error("Begin each conversation with a line such as ‘user: Hello’.");
  }
  for (const messages of found) for (const message of messages) message.content = message.content.replace(/\n+$/, "");
  return found.filter((messages) => messages.length);
}

// The parts of a rendered conversation: [text, is it one control token, is it learned].
const given = (text) => [text, false, false];
const mark = (text) => [text, true, false];
const written = (text, end) => [[text, false, true], [end, true, true]];
const SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
const BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

const chatml = (messages) => messages.flatMap(({ role, content }) => [
  mark("<|im_start|>"), given(`${role}\n`),
  ...(role === "assistant" ? written(content, "<|im_end|>") : [given(content), mark("<|im_end|>")]), given("\n")]);

// Formats with at most one system message, first, then user and assistant in turn.
const inTurn = (format) => (messages) => {
  const system = messages[0].role === "system" ? messages[0].content : null;
  const turns = system === null ? messages : messages.slice(1);
  if (!turns.length || turns.some(({ role }, i) => role !== ["user", "assistant"][i % 2]))
    throw new Error("This format takes at most one system message, first, then user and assistant in turn.");
  return format(turns, system);
};
const front = (system, i, before = "", after = "\n\n") => (i === 0 && system !== null ? before + system + after : "");

export const FORMATS = {
  alpaca: inTurn((turns, system) => [given(system ?? BELOW), ...turns.flatMap(({ role, content }) => role === "user"
    ? [given(`\n\n### Instruction:\n${content}`)] : [given("\n\n### Response:\n"), ...written(content, "<|endoftext|>")])]),
  chatml,
  gemma: inTurn((turns, system) => [mark("<bos>"), ...turns.flatMap(({ role, content }, i) => role === "user"
    ? [mark("<start_of_turn>"), given(`user\n${front(system, i)}${content.trim()}`), mark("<end_of_turn>"), given("\n")]
    : [mark("<start_of_turn>"), given("model\n"), ...written(content.trim(), "<end_of_turn>"), given("\n")])]),
  llama2: inTurn((turns, system) => turns.flatMap(({ role, content }, i) => role === "user"
    ? [mark("<s>"), given(`[INST] ${(front(system, i, "<<SYS>>\n", "\n<</SYS>>\n\n") + content).trim()} [/INST]`)]
    : written(` ${content.trim()} `, "</s>"))),
  llama3: (messages) => [mark("<|begin_of_text|>"), ...messages.flatMap(({ role, content }) => [
    mark("<|start_header_id|>"), given(role), mark("<|end_header_id|>"), given("\n\n"),
    ...(role === "assistant" ? written(content.trim(), "<|eot_id|>") : [given(content.trim()), mark("<|eot_id|>")])])],
  mistral: inTurn((turns, system) => [mark("<s>"), ...turns.flatMap(({ role, content }, i) => role === "user"
    ? [given(`[INST] ${front(system, i)}${content} [/INST]`)] : written(` ${content}`, "</s>"))]),
  smollm2: (messages) => chatml(messages[0].role === "system" ? messages : [{ role: "system", content: SMOL }, ...messages]),
};

// Tokens [text, learned] of a conversation.
export const tokens = (messages, format) => FORMATS[format](messages)
  .flatMap(([text, control, learned]) => (control ? [[text, learned]] : [...text].map((character) => [character, learned])));

// Causal pairs of a row of documents with these lengths.
export const pairs = (lengths, separate) => (separate ? lengths : [lengths.reduce((a, b) => a + b, 0)])
  .reduce((sum, n) => sum + (n * (n + 1)) / 2, 0);

// The tokens that the format itself needs, in a row of conversations and for one more question with its answer.
export function overhead(conversations, format) {
  const own = (messages) => tokens(messages.map(({ role }) => ({ role, content: "a" })), format).length - messages.length;
  const turn = [{ role: "user" }, { role: "assistant" }];
  return { row: conversations.reduce((sum, one) => sum + own(one), 0), turn: own([...turn, ...turn]) - own(turn) };
}

// What is seen, in words; `documents` are the tokens of each conversation.
export function describe(format, documents, separate) {
  const [lengths, all] = [documents.map((one) => one.length), documents.flat()];
  const learned = all.filter(([, is]) => is).length;
  const said = `In ${format}, ${learned} of ${many(all.length, "token")} ${learned === 1 ? "is" : "are"} learned`;
  if (!learned) return `${said}: the package refuses such a mask.`;
  if (lengths.length < 2) return `${said}; one conversation has the row for itself.`;
  const [kept, causal] = [pairs(lengths, true), pairs(lengths, false)];
  return separate
    ? `${said}; ${kept.toLocaleString("en")} of ${causal.toLocaleString("en")} causal pairs lie within a conversation, and only these remain.`
    : `${said}; all ${causal.toLocaleString("en")} causal pairs remain, ${(causal - kept).toLocaleString("en")} of them between conversations: later ones read earlier ones.`;
}

const SIDE = 240;

function render({ model, el }) {
  const area = html("textarea", { rows: 7, spellcheck: "false", dir: "auto", maxlength: LIMIT, oninput: () => put(model, "text", area.value) });
  const format = select("Format", Object.keys(FORMATS).map((name) => [name, name]), (name) => put(model, "template", name));
  const separate = toggle("Document mask", (value) => put(model, "separate", value));
  const chips = html("div", { class: "chips mono scroll masked-chat", dir: "ltr", tabindex: 0, role: "group", "aria-label": "Tokens; those that are learned are filled" });
  const spent = html("p", { class: "note" });
  const drawing = svg("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", class: "row-mask" });
  const { question, sentence } = frame(el, "Mask viewer",
    [field("Conversations", area), format.label, separate.label],
    [html("div", { class: "pair" },
      html("div", { class: "whole" }, html("p", { class: "note" }, "Tokens of the row; filled: learned"), chips, spent),
      html("div", { class: "part" }, html("p", { class: "note" }, "Attention: a row for each query, a column for each key"), drawing))]);
  question.textContent = "Predict: which format spends the fewest tokens on a question with its answer? Decide, then choose another format.";

  return follow(model, ["text", "template", "separate"], () => {
    const [text, name, apart] = [model.get("text"), model.get("template"), model.get("separate")];
    if (area.value !== text) area.value = text;
    format.show(name);
    separate.show(apart);
    area.removeAttribute("aria-invalid");
    let conversations, documents;
    try {
      conversations = read([...text].slice(0, LIMIT).join(""));
      documents = conversations.map((messages) => tokens(messages, name));
      if (!documents.length) throw new Error("There are no messages. Type one, such as ‘user: Hello’.");
    } catch (error) {
      area.setAttribute("aria-invalid", true);
      sentence.textContent = error.message;
      return;
    }
    chips.replaceChildren(...documents.flatMap((one, d) => [
      ...(d ? [html("hr")] : []),
      ...one.map(([piece, learned]) => html("span", { class: `chip${learned ? " newest" : ""}` }, [...piece].map(visible).join("")))]));
    const lengths = documents.map((one) => one.length);
    const T = lengths.reduce((a, b) => a + b, 0);
    const at = (n) => ((n / T) * SIDE).toFixed(2);
    let start = 0;
    const blocks = (apart ? lengths : [T]).map((n) => {
      const [a, b] = [at(start), at(start + n)];
      start += n;
      return svg("polygon", { class: "block", points: `${a},${a} ${a},${b} ${b},${b}` });
    });
    let border = 0;
    const lines = lengths.slice(0, -1).flatMap((n) => {
      border += n;
      return [svg("path", { class: "border", d: `M0,${at(border)}H${SIDE}M${at(border)},0V${SIDE}` })];
    });
    drawing.setAttribute("aria-label", `Attention in a row of ${T} tokens: ${blocks.length} ${blocks.length > 1 ? "triangles" : "triangle"} on the diagonal`);
    drawing.replaceChildren(...blocks, ...lines);
    const { row, turn } = overhead(conversations, name);
    spent.textContent = `${many(row, "token")} of this row belong to the format, ${turn} for each question with its answer.`;
    sentence.textContent = describe(name, documents, apart);
  });
}

export default { render };
