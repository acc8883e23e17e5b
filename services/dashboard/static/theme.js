// Runs before the first paint, so that a remembered theme does not flash; a module would come too late.
"use strict";
(() => {
  let remembered = null;
  try {
    remembered = localStorage.getItem("streamscalar.theme");
  } catch {
    // Storage may be forbidden; the system's choice then holds.
  }
  if (remembered === "light" || remembered === "dark") document.documentElement.dataset.theme = remembered;
})();
