// What the AI SDK is to show with any provider that gives it a chat model.

import assert from 'node:assert/strict'
import { APICallError, Output, embed, generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'
import {
  ANSWERED, FOUND, GREETING, HELLO, LOOK_UP, PLACE, STRUCTURED, TOO_LONG, raised, site, usedUp
} from './features.mjs'

globalThis.AI_SDK_LOG_WARNINGS = false
export const tools = {
  find: tool({
    description: 'Where the patient of a bed is.',
    inputSchema: z.object({ bed: z.number().int() }),
    execute: async ({ bed }) => {
      assert.equal(bed, PLACE.bed)
      return FOUND
    }
  })
}

/** `model(key)` is a chat model that uses that key; `encoder` a model for embeddings. */
export function aiChecks (model, encoder) {
  const chat = model(site.key)
  return {
    async chat () {
      assert.equal((await generateText({ model: chat, prompt: HELLO })).text, GREETING)
    },
    async stream () {
      let text = ''
      for await (const part of streamText({ model: chat, prompt: HELLO }).textStream) text += part
      assert.equal(text, GREETING)
    },
    async usage () {
      const result = streamText({ model: chat, prompt: HELLO })
      await result.consumeStream()
      assert.ok((await result.usage).outputTokens > 0)
    },
    async tools () {
      for (const start of [generateText, streamText]) {
        const result = await start({ model: chat, prompt: LOOK_UP, tools, stopWhen: stepCountIs(3) })
        assert.equal(await result.text, ANSWERED)
      }
    },
    async forced () {
      for (const toolChoice of ['required', { type: 'tool', toolName: 'find' }]) {
        const result = await generateText({ model: chat, prompt: HELLO, tools, toolChoice })
        assert.deepEqual(result.toolCalls[0].input, { bed: PLACE.bed })
      }
    },
    async structured () {
      const schema = z.object({ ward: z.string(), bed: z.number().int() })
      const result = await generateText({ model: chat, prompt: STRUCTURED, output: Output.object({ schema }) })
      assert.deepEqual(result.output, PLACE)
    },
    async embeddings () {
      assert.equal((await embed({ model: encoder, value: 'a' })).embedding.length, 8)
    },
    async wrong_key () {
      const error = await raised(() => generateText({ model: model('wrong'), prompt: HELLO }))
      assert.ok(APICallError.isInstance(error), error)
      assert.equal(error.statusCode, 401)
    },
    async too_long () {
      const error = await raised(() => generateText({ model: chat, prompt: TOO_LONG }))
      assert.ok(APICallError.isInstance(error), error)
      assert.equal(error.data.error.code, 'context_length_exceeded')
    },
    async rate_limit () {
      assert.equal((await generateText({ model: model(await usedUp()), prompt: HELLO })).text, GREETING)
    },
    async request_id () {
      const headers = { 'x-client-request-id': 'ward-3.7' }
      const result = await generateText({ model: chat, prompt: HELLO, headers })
      assert.equal(result.response.headers['x-client-request-id'], 'ward-3.7')
    }
  }
}
