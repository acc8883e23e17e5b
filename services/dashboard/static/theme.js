// Runs before the first paint, so that a stored theme does not flash; a module would load too late.
"use strict";
(() => {
  let remembered = null;
  try {
    remembered = localStorage.getItem("streamscalar.theme");
  } catch {
    // Without access to storage the theme of the system applies.
  }
  if (remembered === "light" || remembered === "dark") document.documentElement.dataset.theme = remembered;
})();
