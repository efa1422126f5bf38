// Filter and search of the index. All it does is to hide rows; what it was asked for stands in the address, so that it can be kept.
"use strict";
(() => {
  const rows = Array.from(document.querySelectorAll("#sites tbody tr"), row => ({
    row, kind: row.dataset.kind, text: row.textContent.toLowerCase(),
  }));
  const buttons = document.querySelectorAll("#filter button");
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const none = document.getElementById("none");
  let kind = "";

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, kind: own, text } of rows) {
      const fits = (!kind || own === kind) && words.every(word => text.includes(word));
      row.hidden = !fits;
      if (fits) count += 1;
    }
    for (const button of buttons) button.classList.toggle("on", button.dataset.kind === kind);
    shown.textContent = `${count} of ${rows.length}`;
    none.hidden = count > 0;
  }

  function read() {
    const asked = new URLSearchParams(location.hash.slice(1));
    kind = asked.get("kind") || "";
    search.value = asked.get("q") || "";
    apply();
  }

  function write() {
    const asked = new URLSearchParams();
    if (kind) asked.set("kind", kind);
    if (search.value) asked.set("q", search.value);
    history.replaceState(null, "", "#" + asked);
    apply();
  }

  for (const button of buttons) button.addEventListener("click", () => { kind = button.dataset.kind; write(); });
  search.addEventListener("input", write);
  addEventListener("hashchange", read);
  read();
})();
