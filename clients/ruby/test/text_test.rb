# frozen_string_literal: true

# The text of contexts and statements: exactly that of ../vectors.json, which all clients share.

require_relative 'base'
require 'bigdecimal'
require 'date'
require 'rbconfig'
require 'set'

class TextTest < Minitest::Test
  def text_of(context)
    Bemi.with_context(context) { Bemi.current_text }
  end

  def test_contexts
    VECTORS['contexts'].each { |vector| assert_equal(vector['text'], text_of(vector['context']), vector['name']) }
  end

  def test_large_contexts
    VECTORS['large'].each do |vector|
      text = text_of({ big: vector['piece'] * vector['times'] })
      sent = "{\"big\":\"#{vector['escaped'] * vector['times']}\"}"
      assert(vector['sent'] ? text == sent : text.start_with?('{"bemiError":"'), vector['name'])
    end
  end

  def test_statements
    Bemi.with_context({ a: 1 }) do
      VECTORS['statements'].each { |vector| assert_equal(vector['result'], Bemi.add_context(vector['sql'])) }
    end
    VECTORS['statements'].each { |vector| assert_equal(vector['sql'], Bemi.add_context(vector['sql'])) }
  end

  def test_other_encodings
    Bemi.with_context({ a: 1 }) do
      sql = "update t set a = 'é'; update \"é\" set é = $$é$$"
      expected = "update t set a = 'é' /*Bemi {\"a\":1} Bemi*/; update \"é\" set é = $$é$$ /*Bemi {\"a\":1} Bemi*/"
      %w[UTF-8 ISO-8859-1 BINARY].each do |encoding|
        text = encoding == 'BINARY' ? sql.b : sql.encode(encoding)
        assert_equal(Encoding.find(encoding), Bemi.add_context(text).encoding)
        assert_equal(encoding == 'BINARY' ? expected.b : expected.encode(encoding), Bemi.add_context(text))
      end
      assert_equal("update t set a = '\xff' /*Bemi {\"a\":1} Bemi*/", Bemi.add_context("update t set a = '\xff'"))
    end
  end

  def test_a_string_whose_end_is_unknown
    Bemi.with_context({ a: 1 }) do
      # One statement: the comment behind it is right in any case.
      assert_equal("update t set a = '\\'; select 1 /*Bemi {\"a\":1} Bemi*/", Bemi.add_context("update t set a = '\\'; select 1"))
    end
  end

  def test_values_of_ruby
    context = { symbol: :a, time: Time.utc(2026, 11, 30, 1, 2, 3.5), date: Date.new(2026, 11, 30), price: BigDecimal('1.50'), set: Set[1],
                float: 1.5, 1 => 'one', latin: 'é'.encode('ISO-8859-1'), binary: "\xff\xc3\xa9".b }
    expected = '{"symbol":"a","time":"2026-11-30T01:02:03.500Z","date":"2026-11-30","price":"1.5","set":[1],"float":1.5,"1":"one",' \
               '"latin":"\u00e9","binary":"\ufffd\u00e9"}'
    assert_equal(expected, text_of(context))
  end

  def test_what_cannot_be_sent_is_noted
    cycle = {}
    cycle[:self] = cycle
    deep = 501.times.reduce({}) { |inner, _| { a: inner } }
    unreadable = Object.new.tap { |object| def object.to_hash = raise('no') }
    # PostgreSQL's numbers have at most 131072 digits.
    long = 10**131_072
    [cycle, deep, { a: BasicObject }, { a: Float::NAN }, { a: (0..10_000).to_a }, [1], 'text', 1, { a: unreadable }, { a: long }, { a: -long }].each do |context|
      text = text_of(context)
      next if context.is_a?(Hash) && context[:a].is_a?(Class) # With ActiveSupport, anything can be JSON

      assert(text.start_with?('{"bemiError":"'), text[0, 100])
      assert_operator(text.size, :<, 1000)
    end
  end

  def test_any_error_is_noted
    unfinished = Class.new(StandardError) { def message = raise(NotImplementedError) }
    errors = [NotImplementedError.new('not yet'), RuntimeError.new('é'.encode('UTF-16LE')), RuntimeError.new("\xff"), RuntimeError.new("\xe9".b),
              LoadError.new('no file'), unfinished.new]
    found = errors.map { |error| JSON.parse(Bemi::Text.of { raise error }) }
    expected = ['not yet', 'é', "\u{fffd}", "\u{fffd}", 'no file'].map { |message| { 'bemiError' => message } }
    assert_equal(expected, found[0..4])
    assert_equal(['bemiError'], found[5].keys)
  end

  def test_a_log_that_fails
    former = Bemi.logger
    Bemi.logger = Object.new.tap { |logger| def logger.warn(_) = raise('the disk is full') }
    assert_equal('{"bemiError":"no user"}', Bemi::Text.of { raise 'no user' })
  ensure
    Bemi.logger = former
  end

  # A text can come from a queue. Who can write into the queue cannot write into the text of a statement.
  def test_texts_from_elsewhere
    sql = 'insert into t values (1)'
    {
      '{"a":"*/; DROP TABLE todo; --"}' => { 'a' => '*/; DROP TABLE todo; --' }, '{ "a": "\\u0000%" }' => { 'a' => "\u{fffd}%" },
      '*/; DROP TABLE todo; --' => nil, '[1]' => nil, '{"a":NaN}' => nil, ('[' * 100_000) => nil, 1 => nil
    }.each do |text, context|
      Bemi.with_text(text) do
        assert_equal(1, Bemi.add_context(sql).scan('*/').size)
        context ? assert_equal(context, Bemi.current_context) : assert_equal(['bemiError'], Bemi.current_context.keys)
      end
    end
    Bemi.with_text(nil) { assert_nil(Bemi.current_context) }
    VECTORS['contexts'].each { |vector| Bemi.with_text(vector['text']) { assert_equal(vector['text'], Bemi.current_text, vector['name']) } }
  end

  # Other libraries load what writes times, this one must not depend on them.
  def test_times_without_other_libraries
    text = IO.popen([RbConfig.ruby, '-r', 'bemi', '-e', 'print Bemi.with_context({ at: Time.at(0).utc }) { Bemi.current_text }'], &:read)
    assert_equal('{"at":"1970-01-01T00:00:00.000Z"}', text)
  end

  def test_limits
    [499.times.reduce({}) { |inner, _| { a: inner } }, { a: (0...9_999).to_a }].each { |context| assert(text_of(context).start_with?('{"a"')) }
  end
end
