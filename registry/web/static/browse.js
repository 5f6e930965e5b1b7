// What the pages do beyond HTML; without it everything still works.
"use strict";

// -- moments: how long ago, beside the moment itself
const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function tellMoments(within) {
  for (const time of within.querySelectorAll("time[datetime]:not([title])")) {
    const seconds = (new Date(time.dateTime) - Date.now()) / 1000;
    const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? ["second", 1];
    time.title = time.textContent;
    time.textContent = ago.format(Math.round(seconds / length), unit);
  }
}

// -- texts to copy
function offerCopies(within) {
  if (!navigator.clipboard) return;
  for (const button of within.querySelectorAll("button.copy[hidden]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

// -- a run while it runs: ask again until it is over; slower while nobody looks or nothing answers
const live = document.querySelector("[data-live]:not([data-over])");
let wait = 2000;

async function follow() {
  try {
    const answer = await fetch(live.dataset.live, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.text());
    wait = document.hidden ? 15000 : 2000;
    if (answer.headers.get("x-over")) return;
  } catch {
    wait = Math.min(wait * 2, 30000);
  }
  setTimeout(follow, wait);
}

// Only what changed is put in, so that a text that is being read or a focus stays where it is.
function show(html) {
  const made = new DOMParser().parseFromString(html, "text/html").body;
  const old = [...live.children], fresh = [...made.children];
  fresh.forEach((part, i) => {
    if (!old[i]) live.append(part);
    else if (old[i].dataset.was !== part.outerHTML && old[i].outerHTML !== part.outerHTML) {
      const was = part.outerHTML;
      const log = old[i].querySelector("pre.log"), end = log && log.scrollTop + log.clientHeight > log.scrollHeight - 20;
      part.dataset.was = was;
      if (old[i].open) part.open = true;
      old[i].replaceWith(part);
      const now = part.querySelector("pre.log");
      if (now && end) now.scrollTop = now.scrollHeight;
    }
  });
  old.slice(fresh.length).forEach((part) => part.remove());
  tellMoments(live);
  offerCopies(live);
}

// -- at most two versions are compared; what cannot be taken back is asked once more
for (const form of document.querySelectorAll('form[action="/compare"]')) {
  const boxes = [...form.querySelectorAll('input[type="checkbox"][name="ref"]')];
  form.addEventListener("change", (event) => {
    const marked = boxes.filter((box) => box.checked);
    if (marked.length > 2) (marked.find((box) => box !== event.target) ?? {}).checked = false;
  });
}
document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (button?.classList.contains("danger") && !confirm(`${button.textContent.trim()}?`)) event.preventDefault();
});

tellMoments(document);
offerCopies(document);
document.getElementById("summary")?.focus();
if (live) setTimeout(follow, wait);
