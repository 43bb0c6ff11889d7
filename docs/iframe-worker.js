// Lets the search run when a page of this site is opened from a folder: browsers start no Web Worker on file:// pages.
// The theme's `offline` plugin loads a script of this name from another host if the site has none.
"use strict";
(() => {
  if (location.protocol !== "file:") return;

  const load = (frame, address) =>
    new Promise((resolve, reject) => {
      const script = frame.contentDocument.createElement("script");
      script.src = new URL(address, document.baseURI);
      script.onload = resolve;
      script.onerror = reject;
      frame.contentDocument.head.append(script);
    });

  // A Worker whose script runs in a hidden frame instead of a thread.
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const scope = this.frame.contentWindow;
      scope.postMessage = (data) => this.deliver(this, data);
      scope.importScripts = async (...addresses) => {
        for (const each of addresses) await load(this.frame, each);
      };
      this.addEventListener("message", (event) => this.onmessage?.(event));
      this.ready = load(this.frame, address);
    }

    async postMessage(data) {
      await this.ready;
      this.deliver(this.frame.contentWindow, data);
    }

    deliver(target, data) {
      target.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
    }

    terminate() {
      this.frame.remove();
    }
  };
})();
