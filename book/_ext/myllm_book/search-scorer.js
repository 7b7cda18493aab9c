// Order of what a search finds: the chapter on the topic, its sections, chapters that speak of it, the glossary, the rest.
var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    const query = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().trim();
    const words = query.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
    const has = (text) => words.every((word) => text.toLowerCase().includes(word));
    const chapter = /(?:^|\/)\d\d-/.test(page);
    if (description !== null) return score; // a definition of the package
    if (chapter && !anchor) {
      const own = has(`${title} ${page.replace(/.*\/\d\d-/, "").replaceAll("-", " ")}`);
      return own ? 1000 - title.length : score >= 15 ? 400 + score : 100 + score;
    }
    if (chapter) return has(title.split(" > ").at(-1)) ? 600 - title.length : 150 + score;
    if (page.endsWith("glossary")) return 90; // after the chapters that use the word, the earliest of them first
    return Math.min(score, 80);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
