// Formulas on standard input, one JSON object a line {tex, block}; HTML on standard output, one JSON object a line {html} or {error}.
const katex = require("./katex.min.js");
const lines = require("readline").createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const { tex, block } = JSON.parse(line);
  let answer;
  try {
    answer = { html: katex.renderToString(tex, { displayMode: block, throwOnError: true, strict: "ignore", trust: false }) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
