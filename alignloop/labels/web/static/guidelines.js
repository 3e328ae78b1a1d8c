// The guidelines beside the task: open the first time and for each new version, until they are closed.

import { call } from "./api.js";
import { typeset } from "./math.js";

const byId = (id) => document.getElementById(id);

export class Guidelines {
  // version: the one that this page shows. Judgements carry it.
  constructor({ owner, version, quiet }) {
    this.name = `alignloop.guidelines.${owner}`;
    this.version = version;
    this.quiet = quiet;
    for (const id of ["guide", "guide-close", "guide-read"]) byId(id).addEventListener("click", () => this.toggle());
    typeset(byId("guidelines"));
    this.offer();
  }

  show(open) {
    byId("guidelines").hidden = !open;
    byId("guide").setAttribute("aria-expanded", String(open));
    if (open) return;
    try {
      localStorage.setItem(this.name, String(this.version));
    } catch {
      // A browser that keeps nothing shows them again.
    }
  }

  toggle() {
    this.show(byId("guidelines").hidden);
  }

  offer() {
    let known = null;
    try {
      known = localStorage.getItem(this.name);
    } catch {
      // As if they had never been read.
    }
    const empty = !byId("guideline-text").childElementCount;
    if (!empty && !this.quiet && known !== String(this.version)) this.show(true);
  }

  // Fetches a newer version that a receipt speaks of; true if there is one.
  async heed(receipt) {
    if (this.quiet || !receipt.guidelines || receipt.guidelines === this.version) return false;
    const fresh = await call("guidelines").catch(() => null);
    if (!fresh) return false; // the next receipt says it again
    this.version = fresh.version;
    byId("guideline-text").innerHTML = fresh.html; // made by the server, which escapes everything in it
    byId("guideline-version").textContent = `v${fresh.version}`;
    typeset(byId("guidelines"));
    this.offer();
    return true;
  }
}
