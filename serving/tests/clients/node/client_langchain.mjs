// @langchain/openai.

import assert from 'node:assert/strict'
import { HumanMessage, ToolMessage } from '@langchain/core/messages'
import { tool } from '@langchain/core/tools'
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { z } from 'zod'
import {
  ANSWERED, FOUND, GREETING, HELLO, LOOK_UP, PLACE, STRUCTURED, TOO_LONG, main, raised, site, usedUp
} from './features.mjs'

const model = (more = {}) => new ChatOpenAI({
  model: site.model, apiKey: site.key, configuration: { baseURL: site.base_url }, ...more
})
const find = tool(async () => FOUND, {
  name: 'find', description: 'Where the patient of a bed is.', schema: z.object({ bed: z.number().int() })
})
const loop = async (llm) => {
  const bound = llm.bindTools([find])
  const turns = [new HumanMessage(LOOK_UP)]
  turns.push(await bound.invoke(turns))
  const [call] = turns[1].tool_calls
  turns.push(new ToolMessage({ tool_call_id: call.id, content: await find.invoke(call.args) }))
  return (await bound.invoke(turns)).text
}
const streamed = async (llm) => {
  let whole
  for await (const chunk of await llm.stream(HELLO)) whole = whole === undefined ? chunk : whole.concat(chunk)
  return whole
}

await main(['@langchain/openai', '@langchain/core'], {
  async chat () {
    assert.equal((await model().invoke(HELLO)).content, GREETING)
  },
  async stream () {
    assert.equal((await streamed(model())).text, GREETING)
  },
  async usage () {
    assert.ok((await streamed(model({ streamUsage: true }))).usage_metadata.output_tokens > 0)
  },
  async tools () {
    assert.equal(await loop(model()), ANSWERED)
  },
  async forced () {
    for (const choice of ['any', 'find']) {
      const reply = await model().bindTools([find], { tool_choice: choice }).invoke(HELLO)
      assert.deepEqual(reply.tool_calls[0].args, { bed: PLACE.bed })
    }
  },
  async structured () {
    const place = z.object({ ward: z.string(), bed: z.number().int() })
    for (const method of ['jsonSchema', 'functionCalling']) {
      const asked = model().withStructuredOutput(place, { method, name: 'place' })
      assert.deepEqual(await asked.invoke(STRUCTURED), PLACE)
    }
  },
  async responses () {
    const through = model({ useResponsesApi: true, zdrEnabled: true })
    assert.equal((await through.invoke(HELLO)).text, GREETING)
    assert.equal((await streamed(through)).text, GREETING)
    assert.equal(await loop(through), ANSWERED)
  },
  async embeddings () {
    const configuration = { baseURL: site.base_url }
    const embeddings = new OpenAIEmbeddings({ model: site.encoder, apiKey: site.key, configuration })
    assert.equal((await embeddings.embedQuery('a')).length, 8)
  },
  async wrong_key () {
    const error = await raised(() => model({ apiKey: 'wrong' }).invoke(HELLO))
    assert.equal(error.status, 401)
    assert.equal(error.lc_error_code, 'MODEL_AUTHENTICATION')
  },
  async too_long () {
    const error = await raised(() => model().invoke(TOO_LONG))
    assert.equal(error.constructor.name, 'ContextOverflowError')
  },
  async rate_limit () {
    assert.equal((await model({ apiKey: await usedUp() }).invoke(HELLO)).content, GREETING)
  }
})
