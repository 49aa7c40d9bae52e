// Parts of a page that are fetched once they are opened; without scripts each is a link.
const fill = async (part) => {
  if (!part.open || !part.dataset.part) return;
  const address = part.dataset.part;
  delete part.dataset.part;
  try {
    const answer = await fetch(address, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = document.createElement("template");
    page.innerHTML = await answer.text();
    part.lastElementChild.replaceChildren(...page.content.querySelector("main").children);
  } catch { part.dataset.part = address; /* The link is still there: opened again, it is tried again. */ }
};
for (const part of document.querySelectorAll("details[data-part]")) fill(part);
document.addEventListener("toggle", (event) => fill(event.target), true);
