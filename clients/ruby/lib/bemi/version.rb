# frozen_string_literal: true

module Bemi
  VERSION = '1.0.0'
end
