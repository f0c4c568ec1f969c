# frozen_string_literal: true

# The context belongs to a thread and a fiber, and to no other.

require_relative 'base'

class ContextTest < Minitest::Test
  def setup
    Bemi.set_context(nil)
  end
  alias teardown setup

  def test_blocks
    assert_nil(Bemi.current_context)
    result = Bemi.with_context({ a: 1 }) do
      assert_equal({ 'a' => 1 }, Bemi.current_context)
      Bemi.with_context({ b: 2 }) { assert_equal({ 'b' => 2 }, Bemi.current_context) }
      Bemi.with_context(nil) { assert_nil(Bemi.current_context) }
      assert_equal({ 'a' => 1 }, Bemi.current_context)
      :result
    end
    assert_equal(:result, result)
    assert_nil(Bemi.current_context)
  end

  def test_an_error_ends_the_block
    assert_raises(ZeroDivisionError) { Bemi.with_context({ a: 1 }) { raise ZeroDivisionError } }
    assert_nil(Bemi.current_context)
    catch(:out) { Bemi.with_context({ a: 1 }) { throw :out } }
    assert_nil(Bemi.current_context)
  end

  def test_from_here_on
    Bemi.set_context({ a: 1, b: 2 })
    Bemi.merge_context({ b: 3, 'c' => 4 })
    assert_equal({ 'a' => 1, 'b' => 3, 'c' => 4 }, Bemi.current_context)
    Bemi.merge_context(nil)
    assert_equal({ 'a' => 1, 'b' => 3, 'c' => 4 }, Bemi.current_context)
    Bemi.set_context(nil)
    assert_nil(Bemi.current_context)
    Bemi.merge_context({ d: 5 })
    assert_equal({ 'd' => 5 }, Bemi.current_context)
  end

  def test_a_block_ends_what_was_set_within
    Bemi.set_context({ a: 1 })
    Bemi.with_context({ b: 2 }) do
      Bemi.merge_context({ c: 3 })
      Bemi.with_context({ d: 4 }) { Bemi.set_context({ e: 5 }) }
      assert_equal({ 'b' => 2, 'c' => 3 }, Bemi.current_context)
    end
    assert_equal({ 'a' => 1 }, Bemi.current_context)
  end

  def test_the_object_is_written_once
    list = [1]
    Bemi.with_context({ a: list }) do
      list << 2
      assert_equal({ 'a' => [1] }, Bemi.current_context)
    end
  end

  def test_threads_inherit_nothing
    Bemi.with_context({ a: 1 }) do
      assert_nil(Thread.new { Bemi.current_context }.value)
      text = Bemi.current_text
      assert_equal({ 'a' => 1 }, Thread.new { Bemi.with_text(text) { Bemi.current_context } }.value)
    end
  end

  def test_fibers
    fibers = Array.new(10) do |i|
      Fiber.new do
        Bemi.with_context({ i: i }) do
          5.times { Fiber.yield(Bemi.current_context) }
        end
      end
    end
    skip('fibers of a thread share the context') if defined?(ActiveSupport::IsolatedExecutionState)
    5.times { fibers.each_with_index { |fiber, i| assert_equal({ 'i' => i }, fiber.resume) } }
    assert_nil(Bemi.current_context)
  end

  def test_fibers_inherit
    inherited = Bemi.with_context({ a: 1 }) { Fiber.new { Bemi.current_context }.resume }
    if defined?(ActiveSupport::IsolatedExecutionState) || Fiber.respond_to?(:[])
      assert_equal({ 'a' => 1 }, inherited)
    else
      assert_nil(inherited)
    end
  end
end
