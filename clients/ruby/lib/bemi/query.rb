# frozen_string_literal: true

require_relative 'statements'

module Bemi
  # Appends the context to the queries that change rows.
  module Query
    # What can come before the first word of a statement, except comments.
    BEFORE_FIRST_WORD = /\G(?:\s+|\(|--[^\n\r]*)+/n.freeze
    FIRST_WORD = /\G[a-z]+/ni.freeze
    WRITES = /\A(?:insert|update|delete|merge|truncate|copy)\z/i.freeze
    WRITES_WITHIN = /\b(?:insert|update|delete|merge)\b/ni.freeze

    class << self
      def add_context(sql)
        text = Storage.text
        return sql if text.nil? || !sql.is_a?(String)

        add(sql.b, text).force_encoding(sql.encoding)
      end

      # The argument is read as bytes.
      def changes_rows?(sql)
        position = 0
        loop do
          if (match = sql.match(BEFORE_FIRST_WORD, position)) then position = match.end(0)
          elsif sql[position, 2] == '/*' then position = Statements.after_comment(sql, position)
          else break
          end
        end
        word = sql.match(FIRST_WORD, position).to_s
        # An unnecessary comment (WITH ... SELECT ... FOR UPDATE) does no harm.
        WRITES.match?(word) || (word.casecmp?('with') && WRITES_WITHIN.match?(sql))
      end

      # Whether this text will have a context, or has one.
      def context?(sql)
        !Storage.text.nil? && (sql.include?('/*Bemi ') || changes_rows?(sql.b))
      end

      private

      def add(sql, text)
        query = ''.b
        done = 0
        # A context that was written by hand is not replaced.
        Statements.new(sql).to_a.each do |found|
          statement = sql[found.begin...found.end]
          query << sql[done...found.begin] << statement
          query << comment(statement, text) if !found.has_context && changes_rows?(statement)
          done = found.end
        end
        query << sql[done..]
      end

      # After the statement, which can end in a "--" comment.
      def comment(statement, text)
        "#{statement.include?('--') ? "\n" : ' '}/*Bemi #{text} Bemi*/"
      end
    end
  end
end
