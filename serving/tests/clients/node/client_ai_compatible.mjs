// The AI SDK with its provider for servers that speak as OpenAI's.

import assert from 'node:assert/strict'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText } from 'ai'
import { aiChecks } from './ai_checks.mjs'
import { CONCLUSION, GREETING, HELLO, THINK, THOUGHT, main, site } from './features.mjs'

const provider = (apiKey) => createOpenAICompatible({
  name: 'onprem', baseURL: site.base_url, apiKey, includeUsage: true, supportsStructuredOutputs: true
})

await main(['ai', '@ai-sdk/openai-compatible'], {
  ...aiChecks((key) => provider(key)(site.model), provider(site.key).textEmbeddingModel(site.encoder)),
  async reasoning () {
    const model = provider(site.key)(site.model)
    const result = await generateText({ model, prompt: THINK })
    assert.equal(result.reasoningText.trim(), THOUGHT)
    assert.equal(result.text.trim(), CONCLUSION)
    // and the next turn sends it back
    const messages = [
      { role: 'user', content: THINK }, ...result.response.messages, { role: 'user', content: HELLO }
    ]
    assert.equal((await generateText({ model, messages })).text, GREETING)
  }
})
