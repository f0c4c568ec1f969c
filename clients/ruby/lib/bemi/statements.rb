# frozen_string_literal: true

module Bemi
  # The statements of a text: where each ends, and whether a context follows it.
  #
  # This is the client's half of src/context/comment.c. The server looks for a context in the run of comments, white space and
  # semicolons behind a statement's last token, so the client must look there, too. Inside a string, a quoted name or another
  # comment, the same characters mean nothing.
  #
  # Texts are read as bytes. In each encoding of a server, the ASCII characters are as they are, and only these count.
  class Statements
    Statement = Struct.new(:begin, :end, :has_context)

    # A text is split into names, pieces that hide their contents, and the rest. Names are read whole, because a "$" within a
    # name begins no string.
    PIECE = %r{
      \G(?:[a-z_\x80-\xff][\w$\x80-\xff]* | [^a-z_\x80-\xff'"$;/-]+ | --[^\n\r]* | /\* | "[^"]*"
      | \$(?:[a-z_\x80-\xff][\w\x80-\xff]*)?\$ | .)
    }xmni.freeze
    COMMENT_MARK = %r{/\*|\*/}n.freeze
    SPACE_ONLY = /\A[ \t\n\r\f\v]*\z/n.freeze
    ESCAPE_STRING = /(?:\A|[^\w$\x80-\xff])e\z/ni.freeze

    # What ends a string, and pairs that do not, with and without escapes by backslashes.
    PLAIN_QUOTES = /''|'/n.freeze
    ESCAPED_QUOTES = /''|\\.|'/mn.freeze

    # Where the comment that begins here ends. In PostgreSQL, comments nest.
    def self.after_comment(sql, start)
      depth = 0
      position = start
      while (found = sql.index(COMMENT_MARK, position))
        position = found + 2
        depth += sql.getbyte(found) == 0x2f ? 1 : -1
        return position if depth.zero?
      end
      sql.bytesize
    end

    def initialize(sql)
      @sql = sql
    end

    # The statements in order. The comments after a semicolon belong to the statement before it.
    #
    # If it is not certain where a string ends, the text counts as one statement without a context: a wrong guess could put a
    # comment into a string, or take a string for a context.
    def to_a
      whole = [Statement.new(0, @sql.bytesize, false)]
      return whole unless @sql.include?(';') || @sql.include?('/*Bemi')

      @found = [Statement.new(0, nil, false)]
      position = 0
      while position < @sql.bytesize
        piece = @sql.match(PIECE, position)[0]
        after = after_piece(position, piece)
        return whole unless after

        add(position, piece, after)
        position = after
      end
      @found.last.end ||= @sql.bytesize
      @found
    end

    private

    def add(position, piece, after)
      statement = @found.last
      if piece == '/*' then statement.has_context ||= context?(@sql[position...after])
      elsif piece == ';' then statement.end ||= position
      elsif !space?(piece)
        if statement.end then @found << Statement.new(position, nil, false)
        else statement.has_context = false
        end
      end
    end

    def after_piece(position, piece)
      if piece == '/*' then self.class.after_comment(@sql, position)
      elsif piece == "'" then after_string(position)
      elsif piece.start_with?('$') && piece.bytesize > 1 then after_dollars(position, piece)
      else position + piece.bytesize
      end
    end

    # nil if the string's end depends on the server's setting standard_conforming_strings.
    def after_string(quote)
      escaped = after_quotes(quote + 1, ESCAPED_QUOTES)
      return escaped if ESCAPE_STRING.match?(@sql[[quote - 2, 0].max...quote])

      escaped if after_quotes(quote + 1, PLAIN_QUOTES) == escaped
    end

    def after_quotes(position, quotes)
      while (match = @sql.match(quotes, position))
        position = match.end(0)
        return position if match[0] == "'"
      end
      @sql.bytesize
    end

    def after_dollars(position, delimiter)
      found = @sql.index(delimiter, position + delimiter.bytesize)
      found ? found + delimiter.bytesize : @sql.bytesize
    end

    def context?(comment)
      comment.bytesize >= '/*BemiBemi*/'.bytesize && comment.start_with?('/*Bemi') && comment.end_with?('Bemi*/')
    end

    def space?(piece)
      piece.start_with?('--') || SPACE_ONLY.match?(piece)
    end
  end
end
