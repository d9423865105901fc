"""Engine: one thread owns the device; requests come in, steps run, tokens go out.

May import: adapters.peft.tokenizer, adapters.sources, adapters.store, api, backends, base_model,
config, errors, foreign, grammars, kv_cache, requests, requests.messages, requests.prompts,
requests.text, sampling, scheduling, version.
"""
