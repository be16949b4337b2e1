// Keeps the parts of a page that change up to date: #live as a whole, or each [data-live] part. Without it the page still works.
"use strict";
(() => {
  const every = 1000 * (document.querySelector("#live")?.dataset.every || 5);
  const parts = () => document.querySelectorAll("#live, [data-live]");
  if (!parts().length) return;
  const key = (part) => part.id || `[data-live="${part.dataset.live}"]`;
  const refresh = async () => {
    if (document.hidden) return;
    const answer = await fetch(location.pathname.replace(/\/patient$/, ""), { credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts()) {
      const other = part.id ? fresh.getElementById(part.id) : fresh.querySelector(key(part));
      if (!other || part.innerHTML === other.innerHTML || part.contains(document.activeElement)) continue;
      const scrolled = [...part.querySelectorAll(".timeline")].map((list) => list.scrollTop);
      part.replaceChildren(...other.childNodes);
      part.querySelectorAll(".timeline").forEach((list, i) => { list.scrollTop = scrolled[i] || 0; });
    }
  };
  setInterval(() => refresh().catch(() => {}), every);
})();
