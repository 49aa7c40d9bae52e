// Sends the tags and the note of a job, and shows what came back.
document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form.labels");
  if (!form) return;
  event.preventDefault();
  const tags = form.elements.tags.value.split(",").map((tag) => tag.trim()).filter(Boolean);
  const said = form.querySelector("output");
  try {
    const answer = await fetch(form.dataset.to, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ tags, note: form.elements.note.value }),
    });
    const told = await answer.json();
    said.textContent = answer.ok ? "Kept." : told.detail;
    if (answer.ok) document.getElementById("tags").textContent = told.tags.join(", ") || "no tags";
  } catch {
    said.textContent = "The service does not answer.";
  }
});
