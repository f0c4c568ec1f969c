# frozen_string_literal: true

module Bemi
  # Rack middleware: handles each request with the context that the block returns.
  #
  #   use Bemi::Middleware do |request|
  #     { endpoint: request.path, userId: request.env['warden'].user&.id }
  #   end
  #
  # It stands behind what finds the user. An error of the block is noted in the context. The request is handled in any case.
  class Middleware
    def initialize(app, &callback)
      raise ArgumentError, 'Bemi::Middleware needs a block that returns the context of a request' unless callback

      @app = app
      @callback = callback
    end

    def call(env)
      text = Text.of { @callback.call(request(env)) }
      status, headers, body = Storage.with(text) { @app.call(env) }
      # The server reads it after this method has ended. An array is made already.
      body = Body.new(body, text) unless text.nil? || body.is_a?(Array)
      [status, headers, body]
    end

    private

    def request(env)
      if defined?(ActionDispatch::Request) then ActionDispatch::Request.new(env)
      elsif defined?(Rack::Request) then Rack::Request.new(env)
      else env
      end
    end

    # A body that is made while it is read. It has what the original has, such as to_path, and nothing else: a server calls a body
    # that has no method each.
    class Body
      def initialize(body, text)
        @body = body
        @text = text
      end

      def respond_to_missing?(name, include_all = false)
        @body.respond_to?(name, include_all)
      end

      def method_missing(name, *arguments, &block)
        return super unless @body.respond_to?(name)
        return enum_for(:each) if name == :each && !block

        Storage.with(@text) { @body.public_send(name, *arguments, &block) }
      end
    end
  end
end
