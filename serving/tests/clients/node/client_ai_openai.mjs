// The AI SDK with its provider for OpenAI: chat by name, the responses endpoint by default.

import assert from 'node:assert/strict'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText } from 'ai'
import { aiChecks } from './ai_checks.mjs'
import { CONCLUSION, THINK, main, site } from './features.mjs'

const provider = (apiKey) => createOpenAI({ baseURL: site.base_url, apiKey })
const byDefault = (key) => provider(key)(site.model)
const encoder = provider(site.key).embedding(site.encoder)

await main(['ai', '@ai-sdk/openai'], {
  ...aiChecks((key) => provider(key).chat(site.model), encoder),
  async responses () {
    const checks = aiChecks(byDefault, encoder)
    for (const name of ['chat', 'stream', 'usage', 'tools', 'forced', 'structured']) await checks[name]()
    const result = await generateText({ model: byDefault(site.key), prompt: THINK })
    assert.equal(result.text.trim(), CONCLUSION)
  }
})
