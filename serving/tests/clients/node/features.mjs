// What features.py is for clients in Python: runs the checks of one library and prints the outcomes.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [, , file, number] = process.argv
export const site = JSON.parse(readFileSync(file, 'utf8'))

export const {
  HELLO, GREETING, THINK, THOUGHT, CONCLUSION, STRUCTURED, PLACE, LOOK_UP, FOUND, ANSWERED, TOO_LONG
} = site.conversation

/** A key whose rate has just been used up; a second later there is one request again. */
export async function usedUp () {
  const key = site.limited[Number(number)]
  for (let request = 0; request < 200; request += 1) {
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
    const response = await fetch(`${site.base_url}/chat/completions`, { method: 'POST', headers, body: '{}' })
    await response.arrayBuffer()
    if (response.status === 429) return key
  }
  throw new Error('the key is not used up')
}

export async function raised (action) {
  try {
    await action()
  } catch (error) {
    return error
  }
  throw new assert.AssertionError({ message: 'nothing was raised' })
}

/** The version that is installed, also where a package does not export its package.json. */
function version (name) {
  const [folder] = createRequire(import.meta.url).resolve.paths(name)
  return JSON.parse(readFileSync(`${folder}/${name}/package.json`, 'utf8')).version
}

export async function main (names, checks) {
  const results = {}
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check()
      results[name] = 'works'
    } catch (error) {
      console.error(error)
      results[name] = `${error.constructor.name}: ${error.message}`.slice(0, 300)
    }
  }
  const versions = Object.fromEntries(names.map((name) => [name, version(name)]))
  console.log(JSON.stringify({ versions, results }))
}
