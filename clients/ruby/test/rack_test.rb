# frozen_string_literal: true

# The middleware, in front of any Rack application.

require_relative 'base'
require 'rack'

class RackTest < Minitest::Test
  def app(inner, &callback)
    Bemi::Middleware.new(inner, &(callback || ->(request) { { path: request.path } }))
  end

  def ask(application, path = '/todo')
    application.call(Rack::MockRequest.env_for(path))
  end

  def test_the_request_has_the_context
    seen = nil
    status, _, body = ask(app(->(_) { [200, {}, [(seen = Bemi.current_context).to_s]] }), '/todo?a=1')
    assert_equal([200, { 'path' => '/todo' }, Array], [status, seen, body.class])
    assert_nil(Bemi.current_context)
  end

  def test_no_context
    body = Object.new
    assert_same(body, ask(app(->(_) { [200, {}, body] }) { nil })[2])
  end

  def test_errors_of_the_application_pass
    assert_raises(ZeroDivisionError) { ask(app(->(_) { raise ZeroDivisionError })) }
    assert_nil(Bemi.current_context)
  end

  def test_an_error_of_the_block_is_noted
    seen = nil
    assert_equal(200, ask(app(->(_) { [200, {}, [(seen = Bemi.current_context).to_s]] }) { raise 'no user' })[0])
    assert_equal({ 'bemiError' => 'no user' }, seen)
  end

  def test_a_body_that_is_made_later
    seen = []
    body = Object.new
    body.define_singleton_method(:each) { |&block| 2.times { block.call((seen << Bemi.current_context).size.to_s) } }
    body.define_singleton_method(:close) { seen << Bemi.current_context }
    body.define_singleton_method(:to_path) { '/a/file' }
    _, _, answer = ask(app(->(_) { [200, {}, body] }))
    assert_equal(%w[1 2], answer.each.to_a)
    assert_equal('/a/file', answer.to_path)
    refute_respond_to(answer, :to_ary)
    answer.close
    assert_equal([{ 'path' => '/todo' }] * 3, seen)
    assert_nil(Bemi.current_context)
  end

  # Rack 3: a server looks for the method each, and without it calls the body.
  def test_a_body_that_is_called
    seen = nil
    _, _, answer = ask(app(->(_) { [200, {}, ->(stream) { stream << (seen = Bemi.current_context) }] }))
    refute_respond_to(answer, :each)
    refute_respond_to(answer, :close)
    answer.call([])
    assert_equal({ 'path' => '/todo' }, seen)
  end

  def test_an_error_of_a_body_ends_the_context
    body = Object.new.tap { |object| def object.each = raise(ZeroDivisionError) }
    _, _, answer = ask(app(->(_) { [200, {}, body] }))
    assert_raises(ZeroDivisionError) { answer.each { nil } }
    assert_nil(Bemi.current_context)
  end

  def test_threads
    application = app(->(env) { [200, {}, [sleep(0.001) && Bemi.current_context['path'], env['PATH_INFO']]] })
    Array.new(20) { |i| Thread.new { ask(application, "/#{i}")[2] } }.each { |thread| assert_equal(thread.value[1], thread.value[0]) }
  end

  def test_a_block_is_needed
    assert_raises(ArgumentError) { Bemi::Middleware.new(->(_) {}) }
  end
end
