// Follows a job: its page's elements are exchanged as the service sends them, and lines of its logs are added, each
// once, also where the service was started again meanwhile. A hidden page follows nothing until it is seen.
const main = document.querySelector("main");
const MOST_LINES = 400;
const again = 3000;
let stream = null;
let place = "";

// What somebody has opened stays open.
const keepOpen = (fresh) => {
  for (const part of fresh.querySelectorAll("details")) {
    part.open = document.getElementById(part.id)?.open ?? part.open;
  }
};

const put = (id, html) => {
  if (id === "title") { document.title = html; return; }
  const element = document.getElementById(id);
  if (!element) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  keepOpen(fresh.content);
  element.replaceChildren(fresh.content);
};

const add = (name, lines) => {
  const log = document.querySelector(`[data-log="${CSS.escape(name)}"] pre`);
  if (log) log.textContent = [...log.textContent.split("\n").filter(Boolean), ...lines].slice(-MOST_LINES).join("\n");
};

const follow = () => {
  if (stream || document.hidden) return;
  const address = new URL(main.dataset.events, location.href);
  if (place) address.searchParams.set("place", place);
  stream = new EventSource(address);
  stream.addEventListener("news", (event) => {
    place = event.lastEventId;
    const { elements, lines } = JSON.parse(event.data);
    for (const [id, html] of Object.entries(elements)) put(id, html);
    for (const [name, some] of Object.entries(lines)) add(name, some);
  });
  stream.addEventListener("end", () => { leave(); delete main.dataset.live; });
  stream.addEventListener("error", () => {
    if (stream?.readyState === EventSource.CLOSED) { leave(); setTimeout(follow, again); }
  });
};
const leave = () => { stream?.close(); stream = null; };

document.addEventListener("visibilitychange", () => {
  if (document.hidden) leave();
  else if ("live" in main.dataset) follow();
});

// A page that is told of nothing looks by itself, unless somebody has moved into it with the keyboard.
const renew = async () => {
  try {
    const answer = document.hidden || document.activeElement !== document.body ? null : await fetch(location.href, { cache: "no-store" });
    if (answer?.ok) {
      const page = document.createElement("template");
      page.innerHTML = await answer.text();
      const fresh = page.content.querySelector("main");
      keepOpen(fresh);
      main.replaceChildren(...fresh.childNodes);
      document.title = page.content.querySelector("title").textContent;
      if (!("live" in fresh.dataset)) { delete main.dataset.live; return; }
    }
  } catch { /* The service is away: look again. */ }
  setTimeout(renew, Number(main.dataset.live));
};

if (main.dataset.events) follow();
else setTimeout(renew, Number(main.dataset.live));
