// openai for Node.

import assert from 'node:assert/strict'
import OpenAI from 'openai'
import { zodResponseFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import {
  ANSWERED, CONCLUSION, FOUND, GREETING, HELLO, LOOK_UP, PLACE, STRUCTURED, THINK, THOUGHT, TOO_LONG, main, raised,
  site, usedUp
} from './features.mjs'

const client = new OpenAI({ baseURL: site.base_url, apiKey: site.key })
const parameters = {
  type: 'object', properties: { bed: { type: 'integer' } }, required: ['bed'], additionalProperties: false
}
const tool = { type: 'function', function: { name: 'find', parameters, strict: true } }
const user = (content) => [{ role: 'user', content }]
const ask = (content, more = {}) =>
  client.chat.completions.create({ model: site.model, messages: user(content), ...more })

await main(['openai'], {
  async chat () {
    assert.equal((await ask(HELLO)).choices[0].message.content, GREETING)
  },
  async stream () {
    let text = ''
    for await (const chunk of await ask(HELLO, { stream: true })) text += chunk.choices[0].delta.content ?? ''
    assert.equal(text, GREETING)
  },
  async usage () {
    let last
    const options = { stream: true, stream_options: { include_usage: true } }
    for await (const chunk of await ask(HELLO, options)) last = chunk
    assert.ok(last.usage.completion_tokens > 0)
  },
  async tools () {
    const runner = client.chat.completions.runTools({
      model: site.model,
      messages: user(LOOK_UP),
      tools: [{
        type: 'function',
        function: {
          name: 'find',
          parameters,
          parse: JSON.parse,
          function: ({ bed }) => {
            assert.equal(bed, PLACE.bed)
            return FOUND
          }
        }
      }]
    })
    assert.equal(await runner.finalContent(), ANSWERED)
  },
  async forced () {
    for (const choice of ['required', { type: 'function', function: { name: 'find' } }]) {
      const reply = await ask(HELLO, { tools: [tool], tool_choice: choice })
      assert.deepEqual(JSON.parse(reply.choices[0].message.tool_calls[0].function.arguments), { bed: PLACE.bed })
    }
  },
  async structured () {
    const place = z.object({ ward: z.string(), bed: z.number().int() })
    const reply = await client.chat.completions.parse({
      model: site.model, messages: user(STRUCTURED), response_format: zodResponseFormat(place, 'place')
    })
    assert.deepEqual(reply.choices[0].message.parsed, PLACE)
  },
  async reasoning () {
    const { message } = (await ask(THINK)).choices[0]
    assert.equal(message.reasoning_content.trim(), THOUGHT)
    assert.equal(message.content.trim(), CONCLUSION)
  },
  async responses () {
    assert.equal((await client.responses.create({ model: site.model, input: HELLO })).output_text, GREETING)
    const final = await client.responses.stream({ model: site.model, input: HELLO }).finalResponse()
    assert.equal(final.output_text, GREETING)
    const tools = [{ type: 'function', name: 'find', parameters, strict: true }]
    const first = await client.responses.create({ model: site.model, input: LOOK_UP, tools, store: false })
    const call = first.output.find((item) => item.type === 'function_call')
    const output = { type: 'function_call_output', call_id: call.call_id, output: FOUND }
    const input = [...user(LOOK_UP), ...first.output, output]
    const second = await client.responses.create({ model: site.model, input, tools, store: false })
    assert.equal(second.output_text, ANSWERED)
  },
  async embeddings () {
    const reply = await client.embeddings.create({ model: site.encoder, input: ['a', 'b'] })
    assert.deepEqual(reply.data.map((entry) => entry.embedding.length), [8, 8])
  },
  async models () {
    const found = []
    for await (const model of client.models.list()) found.push(model.id)
    assert.deepEqual(found.sort(), [site.encoder, site.model].sort())
  },
  async wrong_key () {
    const error = await raised(() => client.withOptions({ apiKey: 'wrong' }).models.list())
    assert.ok(error instanceof OpenAI.AuthenticationError, error)
  },
  async too_long () {
    const error = await raised(() => ask(TOO_LONG))
    assert.ok(error instanceof OpenAI.BadRequestError, error)
    assert.equal(error.code, 'context_length_exceeded')
  },
  async rate_limit () {
    const limited = client.withOptions({ apiKey: await usedUp() })
    const reply = await limited.chat.completions.create({ model: site.model, messages: user(HELLO) })
    assert.equal(reply.choices[0].message.content, GREETING)
  },
  async request_id () {
    const { data, response } = await client.chat.completions.create(
      { model: site.model, messages: user(HELLO) }, { headers: { 'x-client-request-id': 'ward-3.7' } }
    ).withResponse()
    assert.equal(response.headers.get('x-client-request-id'), 'ward-3.7')
    assert.equal(data._request_id, response.headers.get('x-request-id'))
  }
})
