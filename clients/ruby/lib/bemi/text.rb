# frozen_string_literal: true

require 'json'
require 'time'

module Bemi
  # A context as text: JSON that is safe in a comment of any query, with any contents. All clients of bemi write the same text,
  # see clients/vectors.json. It has its own writer, because other libraries change what JSON.generate and to_json write.
  class Text
    # The server's default of bemi.max_context_size. It would leave out a larger context.
    MAX_SIZE = 1024 * 1024

    # The default of bemi.max_context_keys: keys and elements, at all levels together.
    MAX_KEYS = 10_000

    # Deeper JSON may be refused by the server, whose limit depends on its stack.
    MAX_DEPTH = 500

    # numeric has at most 131072 digits before the point.
    MAX_BITS = (131_072 * Math.log2(10)).floor

    MAX_ERROR_LENGTH = 200

    # "/": without it, nothing begins or ends a comment. "?" and "%": placeholders of drivers, also within comments. What is
    # not ASCII: a database in another encoding would refuse a query with a character that it does not have.
    UNSAFE = %r{[^ -~]|["\\/?%]}.freeze

    SHORT = {
      '"' => '\"', '\\' => '\\\\', "\b" => '\b', "\t" => '\t', "\n" => '\n', "\f" => '\f', "\r" => '\r', "\0" => '\ufffd'
    }.freeze

    HALF_PAIR = /\xED[\xA0-\xBF][\x80-\xBF]/n.freeze
    REPLACEMENT = "\u{fffd}"

    class << self
      # The text of the context that the block returns; nil if it returns nil. It never raises, because a context must not
      # break its query: an error is logged, and noted in the context.
      def of
        context = yield
        context.nil? ? nil : new.write(context)
      rescue StandardError, ScriptError, SystemStackError => e # NotImplementedError and LoadError are no StandardErrors
        message = message_of(e)
        warn(message)
        new.write({ 'bemiError' => message })
      end

      # Halves of surrogate pairs and invalid bytes become the replacement character, because jsonb cannot hold them.
      def storable(string)
        string = string.encode(Encoding::UTF_8, invalid: :replace, undef: :replace, replace: REPLACEMENT) unless
          [Encoding::UTF_8, Encoding::BINARY, Encoding::US_ASCII].include?(string.encoding)
        string = string.dup.force_encoding(Encoding::UTF_8)
        return string if string.valid_encoding?

        string.b.gsub(HALF_PAIR, REPLACEMENT.b).force_encoding(Encoding::UTF_8).scrub(REPLACEMENT)
      end

      private

      # In UTF-8, because a text of another encoding cannot be put together with the warning.
      def message_of(error)
        storable(error.message.to_s)[0, MAX_ERROR_LENGTH]
      rescue StandardError, ScriptError
        error.class.name.to_s
      end

      def warn(message)
        Bemi.logger&.warn("bemi: #{message}; changes are stored without their context")
      rescue StandardError, ScriptError
        # The logger is the application's. One that fails must not break the query either.
      end
    end

    def write(context)
      hash = object(context)
      raise TypeError, 'the context is not a hash' unless hash.is_a?(Hash)

      @out = +''
      @keys = 0
      write_value(hash, 1)
      if @out.bytesize > MAX_SIZE
        raise RangeError, "the context is #{@out.bytesize} bytes long as ASCII, #{MAX_SIZE} are allowed"
      end

      @out
    end

    private

    def write_value(value, depth)
      case value
      when Hash then write_hash(value, depth)
      when Array then write_array(value, depth)
      when String, Symbol then write_string(value.to_s)
      when true, false then @out << value.to_s
      when Integer then write_integer(value)
      when nil then @out << 'null'
      when Float then write_float(value)
      else write_value(object(value), depth + 1)
      end
    end

    def write_hash(hash, depth)
      check_depth(depth)
      @out << '{'
      hash.each_with_index do |(key, value), i|
        count_key
        @out << ',' if i.positive?
        write_string(key.to_s)
        @out << ':'
        write_value(value, depth + 1)
      end
      @out << '}'
    end

    def write_array(array, depth)
      check_depth(depth)
      @out << '['
      array.each_with_index do |value, i|
        count_key
        @out << ',' if i.positive?
        write_value(value, depth + 1)
      end
      @out << ']'
    end

    def write_integer(value)
      raise RangeError, "a number has more digits than PostgreSQL's numeric" if value.bit_length > MAX_BITS

      @out << value.to_s
    end

    def write_float(value)
      raise TypeError, "#{value} cannot be JSON" unless value.finite?

      @out << value.to_s
    end

    def write_string(string)
      @out << '"' << self.class.storable(string).gsub(UNSAFE) { |character| SHORT[character] || escape(character.ord) } << '"'
    end

    def escape(code)
      return format('\u%04x', code) if code <= 0xffff

      code -= 0x10000
      format('\u%04x\u%04x', 0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff))
    end

    # What applications put into contexts and JSON does not have.
    def object(value)
      if value.is_a?(Hash) then value
      elsif value.respond_to?(:to_unsafe_h) then value.to_unsafe_h # parameters of a request in Rails
      elsif value.respond_to?(:to_hash) then value.to_hash
      elsif value.respond_to?(:iso8601) then value.iso8601(*(3 if value.respond_to?(:nsec)))
      elsif defined?(BigDecimal) && value.is_a?(BigDecimal) then value.to_s('F')
      elsif defined?(Set) && value.is_a?(Set) then value.to_a
      elsif value.respond_to?(:as_json) then value.as_json
      else raise TypeError, "a value of class #{value.class} cannot be JSON"
      end
    end

    def check_depth(depth)
      raise RangeError, "the context is nested more than #{MAX_DEPTH} levels deep" if depth > MAX_DEPTH
    end

    def count_key
      raise RangeError, "the context has more than #{MAX_KEYS} keys and elements" if (@keys += 1) > MAX_KEYS
    end
  end
end
