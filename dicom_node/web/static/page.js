// What HTML cannot do alone: the theme, local times, lists that keep up, and nothing else.
"use strict";

const root = document.documentElement;

function themeNow() {
  return root.dataset.theme || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = themeNow() === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

const sameDay = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const otherDay = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function localTimes(inside) {
  for (const element of inside.querySelectorAll("time[datetime]")) {
    const when = new Date(element.dateTime);
    const today = when.toDateString() === new Date().toDateString();
    element.textContent = (today ? sameDay : otherDay).format(when);
    element.title = element.dateTime;
  }
}

localTimes(document);
document.addEventListener("htmx:afterSwap", (event) => localTimes(event.detail.elt));

// Filters come from the address, so that what is fetched anew is what the address says.
function refresh(element) {
  const busy = document.hidden || element.querySelector("details[open], form:focus-within, dialog[open]");
  if (busy) return;
  // what has not changed since is not sent again
  const seen = element.querySelector("data.seen");
  const headers = seen ? { "X-Seen": seen.value } : {};
  htmx.ajax("GET", location.pathname + location.search, { target: element, swap: "innerHTML", headers });
}

for (const element of document.querySelectorAll("[data-refresh]")) {
  setInterval(() => refresh(element), 1000 * Number(element.dataset.refresh));
}

const live = document.getElementById("live");
document.addEventListener("htmx:sendError", () => { live.textContent = "The node does not answer."; live.className = "bad"; });
document.addEventListener("htmx:afterOnLoad", () => { live.textContent = ""; live.className = ""; });

// the filter's hidden state follows the tabs, which are plain links
const search = document.getElementById("search");
if (search && search.value) search.setSelectionRange(search.value.length, search.value.length);
