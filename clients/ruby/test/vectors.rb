# frozen_string_literal: true

require 'json'

# The contexts and statements of ../vectors.json, which all clients share. Ruby's JSON refuses halves of surrogate pairs, so
# they pass as other characters. In a string of Ruby, a half is three invalid bytes.
module Vectors
  ESCAPE = /\\(?:ud[89ab]\h\h\\ud[c-f]\h\h|ud[89a-f]\h\h|.)/m.freeze
  STANDIN = /\u{e000}(\h{4})/.freeze

  def self.read(file)
    text = File.read(file, encoding: 'UTF-8').gsub(ESCAPE) { |escape| escape.match?(/\A\\ud\h{3}\z/) ? "\u{e000}#{escape[2..]}" : escape }
    restore(JSON.parse(text))
  end

  def self.restore(value)
    case value
    when Hash then value.to_h { |key, member| [restore(key), restore(member)] }
    when Array then value.map { |member| restore(member) }
    when String then value.match?(STANDIN) ? value.b.gsub(/\xee\x80\x80(\h{4})/n) { half(Regexp.last_match(1).hex) }.force_encoding('UTF-8') : value
    else value
    end
  end

  def self.half(code)
    [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)].pack('C*')
  end
end

file = File.join(__dir__, 'vectors.json')
VECTORS = Vectors.read(File.exist?(file) ? file : File.join(__dir__, '../../vectors.json'))
