// A quiz answers at once: the verdict in words, and the explanation, whatever was chosen. Without this file the answers are folded below.
for (const question of document.querySelectorAll(".quiz fieldset")) {
  const details = question.querySelector("details");
  const verdict = question.querySelector(".quiz-verdict");
  details.hidden = true;
  question.addEventListener("change", ({ target }) => {
    const right = target.value === question.dataset.answer;
    question.dataset.result = right ? "right" : "wrong";
    for (const label of question.querySelectorAll("label")) label.removeAttribute("data-chosen");
    target.closest("label").dataset.chosen = "";
    verdict.textContent = right ? "Right." : "Not quite; this is why.";
    details.hidden = false;
    details.open = true;
  });
}
