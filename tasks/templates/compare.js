// Films in lockstep: one button and one slider for all of a group; each is kept within a tenth of a second of the
// longest one, and those that are over wait at their last picture.
for (const group of document.querySelectorAll("[data-lockstep]")) {
  const films = [...group.querySelectorAll("video")];
  const [button, slider] = [group.querySelector("button"), group.querySelector("input")];
  const longest = () => films.reduce((one, two) => ((two.duration || 0) > (one.duration || 0) ? two : one));
  const put = (film, second) => { film.currentTime = Math.min(second, film.duration || second); };
  let plays = false;

  const show = () => { button.textContent = plays ? "Pause" : "Play"; };
  const pause = () => { plays = false; films.forEach((film) => film.pause()); show(); };
  const play = () => {
    const lead = longest();
    const from = lead.ended ? 0 : lead.currentTime;
    films.forEach((film) => put(film, from));
    plays = true;
    films.forEach((film) => { if (!film.duration || from < film.duration) film.play().catch(pause); });
    show();
  };

  button.addEventListener("click", () => (plays ? pause() : play()));
  slider.addEventListener("input", () => {
    const second = (slider.value / slider.max) * (longest().duration || 0);
    films.forEach((film) => put(film, second));
  });
  for (const film of films) {
    film.addEventListener("timeupdate", () => {
      const lead = longest();
      if (film === lead) slider.value = (lead.currentTime / (lead.duration || 1)) * slider.max;
      else if (plays && !film.ended && Math.abs(film.currentTime - lead.currentTime) > 0.1) put(film, lead.currentTime);
    });
    film.addEventListener("ended", () => { if (film === longest()) pause(); });
  }
}
