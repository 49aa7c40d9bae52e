// Renews the page until one comes that is not live. Only what is inside <main> is exchanged: what is open stays open,
// and nothing flickers or scrolls.
const every = Number(document.querySelector("main").dataset.live);

const look = async () => {
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (answer.ok) {
      const page = document.createElement("template");
      page.innerHTML = await answer.text();
      const fresh = page.content.querySelector("main");
      for (const part of fresh.querySelectorAll("details")) {
        part.open = document.getElementById(part.id)?.open ?? part.open;
      }
      document.querySelector("main").replaceWith(fresh);
      document.title = page.content.querySelector("title").textContent;
      if (!("live" in fresh.dataset)) return;
    }
  } catch { /* The service is away: look again. */ }
  setTimeout(look, every);
};
setTimeout(look, every);
