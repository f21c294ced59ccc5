"use strict";
// Asks for the page again every few seconds and puts in place what has changed; nothing else is moved or drawn anew.
const POLL_MS = 5000;

function follow(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  const open = old.nodeName === "DETAILS" && old.open;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (open) old.open = true;
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const known = child.id ? named.get(child.id) : place && !place.id ? place : null;
    if (!known) { old.insertBefore(child, place); continue; }
    if (known === place) place = place.nextSibling; else old.insertBefore(known, place);
    follow(known, child);
  }
  while (place) { const next = place.nextSibling; place.remove(); place = next; }
}

let lost = null;
async function poll() {
  const connection = document.getElementById("connection");
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    for (const name of ["header", "main", "footer"]) follow(document.querySelector(name), fresh.querySelector(name));
    lost = null;
  } catch (error) {
    lost = lost || new Date();
    connection.textContent = `The agent does not answer since ${lost.toLocaleTimeString()}; what is shown is from before.`;
    connection.hidden = false;
  }
  document.documentElement.dataset.polls = String(Number(document.documentElement.dataset.polls || 0) + 1);
}

setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
