// The AI SDK with its provider for OpenAI: chat by name, the responses endpoint by default.

import assert from 'node:assert/strict'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, stepCountIs } from 'ai'
import { aiChecks, tools } from './ai_checks.mjs'
import { ANSWERED, CONCLUSION, LOOK_UP, THINK, main, raised, site } from './features.mjs'

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
    const loop = (openai) => generateText({
      model: byDefault(site.key),
      prompt: `Think. ${LOOK_UP}`,
      tools,
      stopWhen: stepCountIs(3),
      providerOptions: { openai }
    })
    const include = ['reasoning.encrypted_content']
    assert.equal((await loop({ store: false, include })).text, ANSWERED)
    assert.match((await raised(() => loop({}))).message, /'input\[1\]' refers .* store: false/)
  }
})
