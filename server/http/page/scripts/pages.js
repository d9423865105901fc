const SIZE = 50;
const AGAIN_MS = 5000;
const BETWEEN_MS = 50;

/** All adapters, as the server lists them: in pages, of which those in view are read again. */
class Pages {
  #pages = [{ token: "", adapters: [], isStale: true }];
  #flat = null;
  total = 0;

  /** Adapters that were read, each with the number of its page. */
  get lines() {
    if (!this.#flat) {
      const found = new Map(); // a page that moved on may have one of the next one's
      this.#pages.forEach((page, number) => {
        page.adapters.forEach((adapter) => found.set(adapter.adapter_id, { adapter, number }));
      });
      this.#flat = [...found.values()];
    }
    return this.#flat;
  }

  /** Whether some have not been read yet. */
  get isPartial() {
    return this.#pages.some((page) => !page.adapters.length && page.isStale);
  }

  /** Marks pages, or all, as to be read again. */
  age(numbers = this.#pages.keys()) {
    for (const number of numbers) {
      if (this.#pages[number]) {
        this.#pages[number].isStale = true;
      }
    }
  }

  /** Reads a page that is to be read; false where there is none. Throws ServerError. */
  async readOne() {
    const number = this.#pages.findIndex((page) => page.isStale);
    if (number < 0) {
      return false;
    }
    const page = this.#pages[number];
    const token = encodeURIComponent(page.token);
    const answer = await get(`adapters?page_size=${SIZE}&page_token=${token}`);
    page.adapters = answer.adapters || [];
    page.isStale = false;
    this.total = answer.total_size || 0;
    this.#follow(number + 1, answer.next_page_token || "");
    this.#flat = null;
    return true;
  }

  /** Lets the page of `number` begin at `token`: what was loaded or unloaded moves those behind. */
  #follow(number, token) {
    if (!token) {
      this.#pages.length = number;
    } else if (this.#pages[number]?.token !== token) {
      const adapters = this.#pages[number]?.adapters || [];
      this.#pages[number] = { token, adapters, isStale: true };
    }
  }
}
