/** Gives the events of an answer, each as it comes. */
async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") {
        return;
      }
      yield JSON.parse(data);
    }
  }
}

/** One answer that comes as a stream, and what it took. */
class Answer {
  #asked = performance.now();
  #first = 0;
  #last = 0;
  tokens = 0;
  finish = "";
  adapters = [];

  /** Asks the server; `onText` gets what is new, and whether it is reasoning. Throws ServerError. */
  async ask(path, body, signal, onText) {
    const answer = await call(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    for await (const event of eventsOf(answer)) {
      if (event.error) {
        throw new ServerError(0, event.error.message);
      }
      this.#take(event, onText);
    }
  }

  #take(event, onText) {
    this.adapters = event.adapters || this.adapters;
    this.tokens = event.usage?.completion_tokens ?? this.tokens;
    const choice = event.choices?.[0];
    if (!choice) {
      return;
    }
    this.finish = choice.finish_reason || this.finish;
    const reasoning = choice.delta?.reasoning_content || "";
    const text = choice.delta?.content || choice.text || "";
    if (reasoning || text) {
      this.#last = performance.now();
      this.#first ||= this.#last;
      onText(reasoning || text, Boolean(reasoning));
    }
  }

  /** Says what it took, as the browser has seen it. */
  get summary() {
    if (!this.#first) {
      return "no text";
    }
    const said = [`first text after ${duration((this.#first - this.#asked) / 1000).join(" ")}`];
    const seconds = (this.#last - this.#first) / 1000;
    if (this.tokens) {
      said.unshift(counted(this.tokens, "token"));
    }
    if (this.tokens > 1 && seconds > 0) {
      said.push(`then ${rounded((this.tokens - 1) / seconds)} tokens/s`);
    }
    return said.join(", ");
  }
}
